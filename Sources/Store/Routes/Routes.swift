package enum Routes {}
