"""The page in a real browser: Chromium or Chrome, driven by Selenium."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from recinject.serving.explore import write_page

selenium = pytest.importorskip("selenium", reason="selenium is not installed")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
in_browser = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no browser: apt-get install chromium chromium-driver"
)


@pytest.fixture
def browser():
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,1400"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    driver.implicitly_wait(10)
    yield driver
    driver.quit()


@pytest.fixture
def css(browser):
    """Find elements by a selector of CSS."""
    from selenium.webdriver.common.by import By

    return lambda selector: browser.find_elements(By.CSS_SELECTOR, selector)


@pytest.fixture
def until(browser):
    """Wait until something is so."""
    from selenium.webdriver.support.ui import WebDriverWait

    return lambda holds: WebDriverWait(browser, 10).until(lambda _: holds())


def complaints(browser):
    return [row["message"] for row in browser.get_log("browser")]


@in_browser
def test_titles_are_picked_lists_read_and_reasons_followed(
    started, browser, css, until, served_run, tmp_path
):
    from selenium.webdriver.common.keys import Keys

    _, address = started("--recommender", "ease")
    browser.get(address)
    titles = served_run.data.catalog.titles[:3]
    for number, title in enumerate(titles):
        css("#search")[0].send_keys(title[:-2])
        until(lambda: css("#found li"))
        css("#search")[0].send_keys(Keys.ARROW_DOWN, Keys.ENTER)
        until(lambda count=number + 1: len(css("#liked li")) == count)
    until(lambda: "2 lists" in css("#status")[0].text)
    assert [each.text for each in css(".list h3")] == ["language_model", "ease"]
    own = served_run.model.recommend([[*titles]], k=10)["title"].tolist()
    shown = [
        row.text.split("\n")[0] for row in css(".list")[0].find_elements("css selector", "ol > li")
    ]
    assert [re.sub(r" -[\d.]+$", "", text) for text in shown] == own
    css(".list summary")[0].click()
    assert "probability" in css(".why li")[0].text
    usual = css("#prompt-text")[0].text
    css("input[value=reworded]")[0].click()
    until(lambda: css("#prompt-text")[0].text not in ("", usual))
    css("input[value=usual]")[1].click()
    css("input[value=shuffled]")[0].click()
    until(lambda: css("#prompt-text")[0].text != usual)
    css("#draw")[0].click()
    until(
        lambda: "hit" in css("#status")[0].text.lower() and "chose next" in css("#target")[0].text
    )
    browser.save_screenshot(str(tmp_path / "page.png"))
    browser.set_window_size(500, 900)
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert complaints(browser) == []


@in_browser
@pytest.mark.slow
def test_the_page_asks_for_the_token(started, browser, css, until):
    _, address = started("--token", "secret")
    browser.get(address)
    until(lambda: css("#token")[0].is_displayed())
    css("#token")[0].send_keys("secret")
    css("#login button")[0].click()
    until(lambda: "tiny" in css("#about")[0].text)
    assert [line for line in complaints(browser) if "401" not in line] == []


@pytest.fixture(scope="module")
def explored(reseal, served_run, tmp_path_factory):
    """The page as one file, over a shop one of whose titles is markup."""
    folder = tmp_path_factory.mktemp("explored") / "tiny"
    shutil.copytree(served_run.recipe.folder, folder)
    frame = pd.read_parquet(folder / "data" / "items.parquet")
    frame.loc[:, "title"] = [f"</script><img src=x onerror=alert(1)> {t}" for t in frame["title"]]
    frame.to_parquet(folder / "data" / "items.parquet", index=False)
    reseal(folder / "data")
    import recinject as ri

    return write_page(ri.load(folder), people=12)


def test_the_file_holds_the_stored_lists(served_run, tmp_path):
    page = write_page(served_run, tmp_path / "page.html", people=20).read_text("utf-8")
    content = json.loads(re.search(r'id="stored">(.*?)</script>', page)[1])
    stored = served_run.recipe.folder / "evaluation" / "predictions"
    assert content["recommenders"] == ["language_model", "ease"] and len(content["people"]) == 20
    for name in content["recommenders"]:
        rows = pd.read_parquet(stored / f"retrieval.{name}.parquet")
        users = np.array(served_run.data.split.interactions.user_ids)[rows["user"]]
        known = dict(zip(users, rows["items"], strict=True))
        for person in content["people"]:
            listed = [row[0] for row in person["lists"][name]["usual"]["items"]]
            assert listed == known[person["user"]][:10].tolist()


def test_nothing_in_the_file_comes_from_elsewhere(explored):
    page = explored.read_text("utf-8")
    assert "http:" not in page and "https:" not in page and "onerror=alert(1)> " in page
    assert len(re.findall("</script>", page)) == 2


@in_browser
def test_the_file_opens_without_a_service(explored, browser, css, until, tmp_path):
    browser.get(explored.as_uri())
    until(lambda: "2 lists" in css("#status")[0].text)
    assert css("#liked li")[0].text.startswith("</script><img")
    first = css("#target")[0].text
    css("#draw")[0].click()
    until(lambda: css("#target")[0].text != first)
    css("input[value=reworded]")[0].click()
    until(lambda: len(css(".list li")) > 10)
    css(".list summary")[0].click()
    browser.save_screenshot(str(tmp_path / "explore.png"))
    assert complaints(browser) == []
