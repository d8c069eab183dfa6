"""The verbs of ``unigrpo``: each file here with an ``app`` adds its own."""
