"""The closed loop: the queue of proposals, training runs and what came of them."""
