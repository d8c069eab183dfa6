"""The verbs of ``unigrpo``: each file here with an ``app`` adds its own, by ``rich_help_panel`` in groups."""

START = "Start here"  # the group that help shows first
