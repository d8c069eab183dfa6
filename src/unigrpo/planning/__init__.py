"""What a run needs, before anything is loaded: parameters, memory by kind and phase, evaluations, FLOPs and hours.

From closed formulas of the backbone's sizes and the counts of ``cost``, for the layout that the scale asks for. Where a
run does not fit, settings are changed one after the other until it does. Imports no torch.
"""
