"""Evaluations: GenEval, text alignment (TA), and the command that scores a run's images."""
