"""Work on the items of a list in threads, a bounded number of items ahead of whoever takes the results."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor


def ahead(function: Callable, items: Iterable, workers: int) -> Iterator[Future]:
    """Yield the Future of function(item) for every item, in the items' order, with `workers` >= 1 threads.

    While the caller is at one result, the next `workers` are being made or waiting, and no more: so workers + 1
    results are held at most, if the caller drops each before it takes the next. `items` is iterated in the caller's
    thread. result() raises what the function raised. Closing the generator drops what has not begun.
    """
    with ThreadPoolExecutor(workers) as pool:
        futures = deque()
        try:
            for item in items:
                futures.append(pool.submit(function, item))
                if len(futures) > workers:
                    yield futures.popleft()
            while futures:
                yield futures.popleft()
        finally:
            pool.shutdown(cancel_futures=True)
