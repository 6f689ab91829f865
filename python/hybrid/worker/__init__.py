"""The worker's pieces: pool, timer, consumer, strategy. They know no hub but the contract."""
