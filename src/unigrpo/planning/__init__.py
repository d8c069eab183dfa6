"""What a run needs, before anything is loaded: memory by kind and phase, evaluations, operations and time.

The plan runs the real code on networks without numbers: ``tracker`` counts, ``shortcuts`` leaves out repetitions,
``phases`` goes through the steps of a run, ``plan`` says whether it fits.
"""
