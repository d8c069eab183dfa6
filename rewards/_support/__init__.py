"""What rewards share: how images are shown to models, published weights, the network of the learned reward."""
