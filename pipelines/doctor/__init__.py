"""Finds problems that would make a run fail, on this machine or in an AWS account.

`machine` and `aws` are the checks of `mammopipe doctor` (with `quotas` for the account's limits); `resources` compares
the memory and disk that a run needs with what is there, also before each run; `findings` is what they share.
"""
