"""Networks and data: loading, training, recording and measuring what the kernels compare."""
