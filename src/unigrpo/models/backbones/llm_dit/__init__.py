"""A language model that reasons and a diffusion transformer that paints, with adapters."""

from unigrpo.study.facts import BackboneFacts

FACTS = BackboneFacts(
    released=True,
    language_model=True,
    adapters_only=True,
    splits=False,
    recomputes=False,
    gradient_through_trace=False,
    prompt_tokens=120,
)
