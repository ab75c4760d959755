"""The stages of reward models: prompts, classifiers and critics, and what they said."""
