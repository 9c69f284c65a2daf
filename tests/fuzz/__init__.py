"""Coverage-guided fuzzing: one file a decoder, each with `SEEDS` and `one_input(data)`; `make fuzz` runs them under atheris."""
