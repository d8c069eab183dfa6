"""UniGRPO: joint reinforcement learning of reasoning and flow-matching image generation (arXiv 2603.23500)."""
