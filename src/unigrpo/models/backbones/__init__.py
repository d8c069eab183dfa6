"""Backbones, one file or folder each: ``backbone`` of a scale names one.

A backbone declares ``FACTS`` (:class:`BackboneFacts`), and importing it takes no time: what needs torch is imported in
its functions. It defines

    holds(folder) -> bool                     whether a folder is one of its checkpoints
    load(folder, device, expected)            the model of such a folder, a :class:`unigrpo.models.base.UnifiedModel`
    FILES                                     files and folders of such a folder
    TELLS                                     keys of its model.json that say what the model is
    part_of(tensor) -> str | None             whose a tensor of the weights is: text, image or fixed; None: unknown
    summary(card) -> str                      the architecture in one line, from model.json
    LICENCE, WHAT                             for the card of an exported model: licence (kind, words), and what it is,
                                              with keys of model.json in braces

and, where its base is trained, ``new_model(cfg)``; where it is released, ``adopt(cfg, folder, info)``, which makes
``folder`` a checkpoint of what ``cfg`` names. Plans run on ``skeleton(cfg, base)``: the model of a run whose base is
``base``, at its true sizes, built in ``tensor_files.shapes_only`` without files. ``convert(folder, out)`` adds what
other libraries read.
"""
