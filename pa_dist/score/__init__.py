"""The stage that scores: text to tokens, actors that hold the models, and the columns they leave."""
