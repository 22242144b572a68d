"""How any result is made once and kept: a store, and a pool of processes. It knows nothing of networks."""
