//! Limits the rate of a pass, and carries the request to stop it. Both may change while it runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{Error, Result};

/// Unused allowance is kept for this long, so that a short stall does not lower the average.
const BURST: Duration = Duration::from_millis(250);

/// Lower rates are refused: to hold a pass still, stop it.
const SLOWEST: f64 = 0.01;

/// Fails for a rate that is not a number of rows per second.
pub fn check(rate: Option<f64>) -> Result<()> {
    match rate {
        Some(rate) if !(rate.is_finite() && rate >= SLOWEST) => Err(Error::protocol(format!(
            "max_events_per_second must be at least {SLOWEST}"
        ))),
        _ => Ok(()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Wish {
    rate: Option<f64>,
    stop: bool,
}

pub struct Throttle {
    wish: watch::Sender<Wish>,
    /// Kept between passes, so that many small passes keep the rate too.
    account: Arc<Mutex<Account>>,
}

impl Throttle {
    pub fn new(rate: Option<f64>) -> Throttle {
        let (wish, _) = watch::channel(Wish { rate, stop: false });
        Throttle {
            wish,
            account: Arc::new(Mutex::new(Account::settled())),
        }
    }

    /// Rows per second from now on; `None` lifts the limit.
    pub fn set_rate(&self, rate: Option<f64>) -> Result<()> {
        check(rate)?;
        self.wish.send_modify(|wish| wish.rate = rate);
        Ok(())
    }

    /// Asks the readers to stop at the next chunk. Cannot be taken back.
    pub fn request_stop(&self) {
        self.wish.send_modify(|wish| wish.stop = true);
    }

    pub fn stopping(&self) -> bool {
        self.wish.borrow().stop
    }

    /// The most rows to take at once: a quarter of a second's worth, so that the rate is smooth.
    pub fn chunk_rows(&self, most: usize) -> usize {
        match self.wish.borrow().rate {
            Some(rate) => most.min(at_once(rate)),
            None => most,
        }
    }

    pub fn pace(&self) -> Pace {
        Pace {
            wish: self.wish.subscribe(),
            account: self.account.clone(),
        }
    }
}

fn at_once(rate: f64) -> usize {
    ((rate / 4.0) as usize).max(1)
}

/// The rows that were taken last, and the time from which the rate allows them.
#[derive(Clone, Copy, Debug)]
struct Account {
    since: Instant,
    rows: usize,
}

impl Account {
    fn settled() -> Account {
        Account {
            since: Instant::now(),
            rows: 0,
        }
    }

    /// When the rate allows the next rows. Rows beyond what it takes at once were taken at a
    /// higher rate and do not count.
    fn paid_at(&self, rate: f64) -> Instant {
        let rows = self.rows.min(at_once(rate));
        self.since + Duration::from_secs_f64(rows as f64 / rate)
    }
}

/// One reader's view of the throttle.
pub struct Pace {
    wish: watch::Receiver<Wish>,
    account: Arc<Mutex<Account>>,
}

impl Pace {
    /// Waits until the rate allows more rows. Returns at once when there is no limit, when the
    /// limit is lifted, or when a stop is requested.
    pub async fn settle(&mut self) {
        loop {
            let wish = *self.wish.borrow_and_update();
            let Some(rate) = wish.rate.filter(|_| !wish.stop) else {
                *self.account() = Account::settled();
                return;
            };
            let paid_at = self.account().paid_at(rate);
            tokio::select! {
                () = tokio::time::sleep_until(paid_at) => return,
                changed = self.wish.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Notes that `rows` were taken.
    pub fn take(&mut self, rows: usize) {
        let now = Instant::now();
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let rate = self.wish.borrow().rate;
        let mut account = self.account();
        let paid_at = rate.map_or(now, |rate| account.paid_at(rate));
        *account = Account {
            since: paid_at.max(earliest),
            rows,
        };
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    async fn take_chunks(pace: &mut Pace, chunks: usize, rows: usize) {
        for _ in 0..chunks {
            pace.settle().await;
            pace.take(rows);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept() {
        let throttle = Throttle::new(Some(1000.0));
        let start = Instant::now();
        take_chunks(&mut throttle.pace(), 41, 250).await;
        let seconds = start.elapsed().as_secs_f64();
        assert!((9.5..=10.5).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_over_many_small_passes() {
        let throttle = Throttle::new(Some(1000.0));
        let start = Instant::now();
        for _ in 0..101 {
            take_chunks(&mut throttle.pace(), 1, 100).await;
        }
        let seconds = start.elapsed().as_secs_f64();
        assert!((9.5..=10.5).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_rate_and_a_stop_reach_a_reader_that_waits() {
        let throttle = Arc::new(Throttle::new(Some(0.1)));
        let mut pace = throttle.pace();
        let start = Instant::now();
        let other = throttle.clone();
        let change = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            other.set_rate(Some(100.0)).unwrap();
            tokio::time::sleep(Duration::from_secs(3)).await;
            other.set_rate(Some(0.1)).unwrap();
            tokio::time::sleep(Duration::from_secs(3)).await;
            other.request_stop();
        });
        pace.take(1);
        pace.settle().await;
        assert!(start.elapsed() <= Duration::from_millis(1100));
        tokio::time::sleep(Duration::from_millis(3500)).await;
        pace.take(1_000);
        pace.settle().await;
        let seconds = start.elapsed().as_secs_f64();
        assert!((6.9..=7.1).contains(&seconds), "{seconds}");
        assert!(throttle.stopping());
        change.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn rows_of_a_higher_rate_do_not_silence_a_lower_one() {
        let throttle = Throttle::new(None);
        let mut pace = throttle.pace();
        pace.take(20_000);
        throttle.set_rate(Some(100.0)).unwrap();
        let start = Instant::now();
        pace.settle().await;
        assert!(start.elapsed() <= Duration::from_millis(260));
    }

    #[test]
    fn a_rate_that_is_none_is_refused() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Throttle::new(None).set_rate(Some(rate)).is_err(), "{rate}");
        }
    }

    #[test]
    fn chunks_shrink_with_the_rate() {
        assert_eq!(Throttle::new(None).chunk_rows(1000), 1000);
        assert_eq!(Throttle::new(Some(100.0)).chunk_rows(1000), 25);
        assert_eq!(Throttle::new(Some(0.5)).chunk_rows(1000), 1);
    }
}
