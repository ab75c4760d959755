"""Messages to the text that a model reads: as published, or by its own chat template."""
