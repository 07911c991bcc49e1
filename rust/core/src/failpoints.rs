//! Named moments at which a test kills, freezes, fails or holds up this process.
//!
//! Names, actions and environment variables are those of `eventsource.failpoints` in Python, where
//! the list of names stands. Without the feature `failpoints` nothing of this is compiled.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

use crate::config::PassSpec;
use crate::error::{Error, Result, Side};

/// How often a gate looks whether it was opened.
const GATE: Duration = Duration::from_millis(5);

struct Point {
    action: String,
    /// Arrivals until it acts.
    left: u32,
}

static ARMED: LazyLock<Mutex<HashMap<String, Point>>> = LazyLock::new(|| {
    let armed = std::env::var("EVENTSOURCE_FAILPOINTS").unwrap_or_default();
    Mutex::new(parse(&armed))
});

static DIRECTORY: LazyLock<Option<PathBuf>> =
    LazyLock::new(|| std::env::var_os("EVENTSOURCE_FAILPOINTS_DIRECTORY").map(PathBuf::from));

/// Python has checked the form. Its own names are among these too; here they are never reached.
fn parse(armed: &str) -> HashMap<String, Point> {
    let point = |item: &str| {
        let (name, what) = item.split_once('=')?;
        let (action, left) = what.split_once('@').unwrap_or((what, "1"));
        let action = action.to_owned();
        let left = left.parse().ok()?;
        Some((name.to_owned(), Point { action, left }))
    };
    armed.split(';').filter_map(point).collect()
}

/// The name for this kind of pass.
pub fn by_pass<'a>(spec: &PassSpec, bulk: &'a str, pass: &'a str, last: &'a str) -> &'a str {
    match (spec.staged, &spec.snapshot) {
        (false, _) => bulk,
        (true, Some(_)) => pass,
        (true, None) => last,
    }
}

/// Arrives at `name`.
pub async fn reach(name: &str) -> Result<()> {
    let Some(action) = arrive(name) else {
        return Ok(());
    };
    let file = |suffix: &str| {
        DIRECTORY
            .as_ref()
            .map(|directory| directory.join(format!("{name}.{suffix}")))
    };
    if let Some(reached) = file("reached") {
        std::fs::write(reached, "").map_err(|error| Error::protocol(error.to_string()))?;
    }
    match action.as_str() {
        "kill" => signal(Signal::KILL),
        "freeze" => signal(Signal::STOP),
        "wait" => {
            let released = file("released");
            while released.as_ref().is_some_and(|gate| !gate.exists()) {
                tokio::time::sleep(GATE).await;
            }
            Ok(())
        }
        "lose" => Err(Error::ConnectionLost {
            side: Side::Target,
            message: format!("failpoint {name}"),
        }),
        _ => Err(Error::protocol(format!("failpoint {name}"))),
    }
}

/// The action if it is due now.
fn arrive(name: &str) -> Option<String> {
    let mut armed = ARMED.lock().ok()?;
    let point = armed.get_mut(name)?;
    point.left = point.left.checked_sub(1)?;
    (point.left == 0).then(|| point.action.clone())
}

fn signal(signal: Signal) -> Result<()> {
    kill_process(getpid(), signal).map_err(|error| Error::protocol(error.to_string()))
}
