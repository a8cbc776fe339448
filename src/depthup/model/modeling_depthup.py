"""Lets transformers load this checkpoint with `trust_remote_code=True`; the code is the Python package depthup."""

try:
    from depthup import SpeechLM, SpeechLMConfig, SpeechProcessor
except ModuleNotFoundError as error:
    if error.name != "depthup":
        raise
    raise ImportError("this checkpoint needs the Python package depthup: pip install depthup") from None

__all__ = ["SpeechLM", "SpeechLMConfig", "SpeechProcessor"]
