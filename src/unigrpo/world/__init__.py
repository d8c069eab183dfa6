"""The synthetic world: scenes whose truth can be read from the pixels; to draw, describe and judge them."""
