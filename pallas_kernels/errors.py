"""What backends raise."""


class UnfitError(NotImplementedError, ValueError):
    """No machine's backend of this name can do this job: its dtype, head width or block sizes.

    NotImplementedError because another backend may, which is then tried; ValueError because asking
    for this one by name is the caller's mistake. A backend that only lacks its machine raises a
    plain NotImplementedError.
    """
