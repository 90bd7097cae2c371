"""The command as a process: it starts, answers, and stops without losing what it took."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest


def test_a_stop_loses_no_accepted_request(started, served_run):
    process, address = started("--batch", "1")
    liked = {"liked": served_run.data.catalog.titles[:2], "k": 5}

    def ask(number):
        try:
            return httpx.post(f"{address}/v1/recommend", json=liked, timeout=30)
        except httpx.TransportError:
            return None  # it came too late: the service never read it

    with ThreadPoolExecutor(40) as pool:
        futures = [pool.submit(ask, number) for number in range(200)]
        for future in futures[:20]:
            future.result()
        process.send_signal(signal.SIGTERM)
        answers = [future.result() for future in futures]
    answered = [answer for answer in answers if answer is not None]
    assert len(answered) >= 20 and all(a.status_code == 200 for a in answered)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 0 or process.returncode == -signal.SIGTERM
    lines = [json.loads(line) for line in told.split("\n") if line[:1] == "{"]
    assert len(lines) == len(answered) and "Traceback" not in told
    assert served_run.data.catalog.titles[0] not in told


@pytest.mark.slow
def test_an_open_address_is_said(started):
    process, address = started("--host", "0.0.0.0", "--token", "t")
    assert httpx.get(address.replace("0.0.0.0", "127.0.0.1") + "/v1/runs").status_code == 401
    process.terminate()


def test_a_run_that_is_not_there_is_refused(recinject):
    ended = recinject("serve", "nothing")
    assert ended.code == 2 and "no run is in" in ended.output
