"""Extensions: what serves the gateway itself."""
