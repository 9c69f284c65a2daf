"""The doors of a gateway: OpenAI, Ollama and native HTTP."""
