"""`make torture`: nothing that was saved is lost, whatever kills the process and whenever.

`python -m tests.torture` kills training runs at random moments and damages their checkpoints; it cuts the
save path off at every call to the system, cuts the power after every call, and flips every byte of a
checkpoint. With ``--plant`` it breaks the program first and must find that.
`tests/faults/` runs shortened forms of the same code.
"""
