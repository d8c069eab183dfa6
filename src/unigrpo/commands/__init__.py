"""The verbs of ``unigrpo``: each file here with an ``app`` adds verbs; ``rich_help_panel`` names their group."""

START = "Start here"  # the group that help shows first
