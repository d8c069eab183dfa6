"""What a run needs, before anything is loaded: ``python -m unigrpo.planning --scale paper --gpus 8 --gpu-memory 80``.

Parameters, memory by kind and phase, model evaluations, FLOPs and hours, from the formulas of ``sizes`` and the counts
of ``cost``, for the layout that the scale asks for: one file for each kind of run. Where a run does not fit, the exit
code is 1, and settings are changed one after the other until it does. Imports no torch.
"""
