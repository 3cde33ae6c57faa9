//! The page in a real browser: headless Chromium renders what the store holds.

use crate::admin::Admin;
use crate::admin::seed;

/// Not a test: serves made-up traffic for somebody who wants to look at the page.
#[tokio::test]
#[ignore = "serves until it is ended"]
async fn look() {
    let admin = Admin::start().await;
    let mut spans = seed::traffic();
    if std::env::var_os("EMPTY").is_some() {
        spans.clear();
    }
    admin.seed(&seed::request(&spans)).await;
    println!("http://{}/", admin.addr);
    std::future::pending::<()>().await;
}
