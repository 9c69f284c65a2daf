"""`ollama-mock`: an HTTP server that behaves as Ollama does, without a model. See `app.make_mock_app`."""

from __future__ import annotations

from quiver.live.backends.mock.answer import ENGINE
from quiver.live.backends.mock.app import make_mock_app, start_mock
from quiver.live.backends.mock.config import Fault, MockConfig, MockModel

__all__ = ["ENGINE", "Fault", "MockConfig", "MockModel", "make_mock_app", "start_mock"]
