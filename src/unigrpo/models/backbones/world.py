"""The Mixture-of-Transformers of the synthetic world, trained from nothing."""

from unigrpo.study.facts import BackboneFacts

FACTS = BackboneFacts(released=False, closed_vocabulary=True)
