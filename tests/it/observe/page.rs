//! The status page, as it is sent and as a browser shows it.

use std::path::{Path, PathBuf};

use super::{SOON, serving};
use crate::harness::fleet::put_manifests;
use crate::harness::projector::place;
use crate::harness::web::{Browser, get, get_as};
use crate::harness::*;

const HOSTILE: &str = "{\"request_id\": \"</pre><script>document.title='owned'</script>\u{1b}[31m\"";

/// A fleet with a bit of everything wrong.
async fn sick(js: &async_nats::jetstream::Context) -> usize {
    put_manifests(js).await.unwrap();
    let planned = plan(910, &Profile::everything(600));
    publish(js, &planned).await.unwrap();
    js.publish("results.<img/src=x/onerror=alert(1)>", HOSTILE.into())
        .await
        .unwrap()
        .await
        .unwrap();
    planned
        .iter()
        .filter(|planned| planned.stream() == "RESULTS")
        .count()
        + 1
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_runs_nothing_and_what_comes_from_outside_is_text_on_it() {
    let server = NatsServer::start();
    let js = server.fleet().await;
    let (_folder, db) = place();
    let (projector, address) = serving(&db, &server.url());
    let results = sick(&js).await as u64;
    wait_until("all is read", PATIENCE, || position(&db) == results);
    let mut page = get(&address, "/");
    wait_until("the page shows it", SOON, || {
        page = get(&address, "/");
        page.body.contains("results.&lt;img")
    });
    let policy = page.header("content-security-policy");
    for part in [
        "default-src 'none'",
        "style-src 'sha256-",
        "frame-ancestors 'none'",
        "form-action 'none'",
    ] {
        assert!(policy.contains(part), "{policy}");
    }
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    for never in [
        "<script", "<img", "src=\"", "style=\"", "http://", "https://", "{{",
    ] {
        assert!(!page.body.contains(never), "{never} is on the page");
    }
    for part in [
        "What is wrong",
        "Streams",
        "Writing",
        "Outputs behind pointers",
        "Dead letters",
        "dead-letters list",
    ] {
        assert!(page.body.contains(part), "{part} is not on the page");
    }
    // Its payload: as text, here only.
    let link = format!("/dead-letters/RESULTS/1/{results}");
    assert!(
        page.body
            .contains(&format!("href=\"{}\"", link.trim_start_matches('/')))
    );
    let payload = get(&address, &link);
    assert_eq!(payload.status, 200);
    assert_eq!(payload.header("content-type"), "text/plain; charset=utf-8");
    assert!(
        payload
            .body
            .contains("</pre><script>document.title='owned'</script>\\u{1b}[31m"),
        "{}",
        payload.body
    );
    assert_eq!(get_as(&address, &link, "evil.example").status, 403);
    assert!(
        !get_as(&address, "/", "evil.example")
            .body
            .contains("href=\"dead-letters/")
    );
    assert_eq!(get(&address, "/dead-letters/RESULTS/1/999999").status, 404);
    assert_eq!(get(&address, "/nothing").status, 404);
    assert!(projector.terminate().success());
}

fn pictures() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("status-page");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_the_page_in_both_schemes_and_on_a_phone() {
    let Some(browser) = Browser::start(1_200, 1_400) else {
        // `scripts/test` gets a browser where it can, and says this at its end too.
        eprintln!(
            "NOT TESTED: no chromium with chromedriver; the status page was not looked at in a browser"
        );
        return;
    };
    let server = NatsServer::start();
    let js = server.fleet().await;
    let (_folder, db) = place();
    let (projector, address) = serving(&db, &server.url());
    let results = sick(&js).await as u64;
    wait_until("all is read, and two samples are drawn", PATIENCE, || {
        position(&db) == results && get(&address, "/").body.contains("<polyline")
    });
    let url = format!("http://{address}/");
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        browser.set_scheme(scheme);
        browser.open(&url);
        let ground = browser.run("return getComputedStyle(document.body).backgroundColor");
        grounds.push(ground.as_str().unwrap().to_owned());
        browser.screenshot(&pictures().join(format!("{scheme}.png")));
        assert_eq!(browser.run("return document.title"), "results-projector: ready");
        let heads = browser
            .run("return [...document.querySelectorAll('h2')].map(head => head.textContent).join('|')");
        assert!(
            heads
                .as_str()
                .unwrap()
                .starts_with("What is wrong|Streams|Writing|Outputs"),
            "{heads}"
        );
        assert_eq!(
            browser.run("return document.querySelectorAll('script, img, iframe').length"),
            0
        );
    }
    assert_eq!(grounds[0], "rgb(246, 247, 249)", "the style is not in force");
    assert_eq!(grounds[1], "rgb(13, 17, 23)", "the dark style is not in force");
    // The policy has blocked nothing that the page needs.
    assert_eq!(browser.console(), serde_json::json!([]));
    // Nothing is wider than a phone.
    browser.set_size(390, 844);
    browser.open(&url);
    browser.screenshot(&pictures().join("phone.png"));
    let wider =
        browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth");
    assert_eq!(wider, 0, "the page is wider than a phone");
    // A payload on demand.
    browser.set_size(1_200, 1_400);
    browser.open(&url);
    browser.click("a[href^='dead-letters/']");
    let told = browser.run("return document.body.textContent");
    assert!(told.as_str().unwrap().contains("reason"), "{told}");
    assert_ne!(browser.run("return document.title"), "owned");
    drop(browser);
    assert!(projector.terminate().success());
}
