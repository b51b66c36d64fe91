"""What a share of few says of many."""


def share_interval(hits: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a probability, of which `hits` of n trials came true.

    Source: Wilson 1927, 10.1080/01621459.1927.10502953.
    """
    from scipy.stats import binomtest

    interval = binomtest(round(hits), n).proportion_ci(0.95, "wilson")
    return float(interval.low), float(interval.high)
