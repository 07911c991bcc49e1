//! Limits the rate of a pass, and carries the request to stop it. Both may change while it runs.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{Error, Result};

/// Unused allowance is kept for this long, so that a short stall does not lower the average.
const BURST: Duration = Duration::from_millis(250);

/// A pass that is slower than this is meant to be stopped.
const SLOWEST: f64 = 0.01;

/// Fails for a rate that is not a number of rows per second.
pub fn check(rate: Option<f64>) -> Result<()> {
    match rate {
        Some(rate) if !(rate.is_finite() && rate >= SLOWEST) => Err(Error::protocol(format!(
            "max_events_per_second is at least {SLOWEST}"
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
}

impl Throttle {
    pub fn new(rate: Option<f64>) -> Throttle {
        let (wish, _) = watch::channel(Wish { rate, stop: false });
        Throttle { wish }
    }

    /// Rows per second from now on; `None` lifts the limit.
    pub fn set_rate(&self, rate: Option<f64>) -> Result<()> {
        check(rate)?;
        self.wish.send_modify(|wish| wish.rate = rate);
        Ok(())
    }

    /// Asks whoever paces itself by this to stop at the next chunk. Not taken back.
    pub fn request_stop(&self) {
        self.wish.send_modify(|wish| wish.stop = true);
    }

    pub fn stopping(&self) -> bool {
        self.wish.borrow().stop
    }

    /// The most rows to take at once: a quarter of a second's worth, so that the rate is smooth.
    pub fn chunk_rows(&self, most: usize) -> usize {
        match self.wish.borrow().rate {
            Some(rate) => most.min((rate / 4.0) as usize).max(1),
            None => most,
        }
    }

    pub fn pace(&self) -> Pace {
        Pace {
            wish: self.wish.subscribe(),
            paid_until: Instant::now(),
        }
    }
}

/// One reader's account with the throttle.
pub struct Pace {
    wish: watch::Receiver<Wish>,
    /// When the rows taken so far are paid for at the current rate.
    paid_until: Instant,
}

impl Pace {
    /// Waits until `rows` more are paid for. Returns at once when the limit is lifted or a stop asked.
    pub async fn spend(&mut self, rows: usize) {
        let now = Instant::now();
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let from = self.paid_until.max(earliest);
        loop {
            let wish = *self.wish.borrow_and_update();
            let Some(rate) = wish.rate.filter(|_| !wish.stop) else {
                self.paid_until = Instant::now();
                return;
            };
            self.paid_until = from + Duration::from_secs_f64(rows as f64 / rate);
            tokio::select! {
                () = tokio::time::sleep_until(self.paid_until) => return,
                changed = self.wish.changed() => if changed.is_err() { return },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept() {
        let throttle = Throttle::new(Some(1000.0));
        let mut pace = throttle.pace();
        let start = Instant::now();
        for _ in 0..40 {
            pace.spend(250).await;
        }
        let seconds = start.elapsed().as_secs_f64();
        assert!((9.5..=10.5).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_rate_and_a_stop_reach_a_reader_that_waits() {
        let throttle = Arc::new(Throttle::new(Some(1.0)));
        let mut pace = throttle.pace();
        let start = Instant::now();
        let other = throttle.clone();
        let change = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            other.set_rate(Some(100.0)).unwrap();
            tokio::time::sleep(Duration::from_secs(3)).await;
            other.request_stop();
        });
        pace.spend(200).await;
        assert!(start.elapsed() <= Duration::from_millis(2100));
        pace.spend(1_000_000).await;
        assert!(start.elapsed() <= Duration::from_millis(4100));
        assert!(throttle.stopping());
        change.await.unwrap();
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
