//! How long a request waits, as people write it: `20ms`, `uniform:5ms,40ms`, `lognormal:20ms,1.5`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

/// A delay, drawn anew for each request.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Delay {
    /// Always the same.
    Fixed(Duration),
    /// Anything from the first to the second, equally likely.
    Uniform(Duration, Duration),
    /// Mostly near the median, with a long tail: a normal distribution of the logarithm. One request in six takes more than
    /// `median * spread`, one in six less than `median / spread`; none takes more than a hundred medians.
    LogNormal {
        /// Half of the requests take longer.
        median: Duration,
        /// Geometric standard deviation, at least 1.
        spread: f64,
    },
}

impl Delay {
    /// Draws one delay.
    pub fn sample(self, rng: &mut impl Rng) -> Duration {
        match self {
            Self::Fixed(d) => d,
            Self::Uniform(low, high) => low + high.saturating_sub(low).mul_f64(rng.random::<f64>()),
            Self::LogNormal { median, spread } => {
                // Box and Muller; 1 - x because the logarithm of 0 is not wanted.
                let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
                let normal = radius * (std::f64::consts::TAU * rng.random::<f64>()).cos();
                median.mul_f64(spread.powf(normal).min(100.0))
            }
        }
    }
}

impl FromStr for Delay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let time = |t: &str| {
            let d =
                humantime::parse_duration(t.trim()).map_err(|e| format!("{t:?} is not a time such as 20ms: {e}"))?;
            if d > Duration::from_secs(3600) { Err(format!("{t:?} is longer than an hour")) } else { Ok(d) }
        };
        let pair = |t: &str| {
            let (a, b) =
                t.split_once(',').ok_or_else(|| format!("{text:?} needs two numbers, with a comma between"))?;
            Ok::<_, String>((a.to_owned(), b.to_owned()))
        };
        match text.split_once(':') {
            None => Ok(Self::Fixed(time(text)?)),
            Some(("uniform", rest)) => {
                let (low, high) = pair(rest)?;
                let (low, high) = (time(&low)?, time(&high)?);
                if low > high { Err(format!("{text:?} begins after it ends")) } else { Ok(Self::Uniform(low, high)) }
            }
            Some(("lognormal", rest)) => {
                let (median, spread) = pair(rest)?;
                match spread.trim().parse::<f64>() {
                    Ok(spread) if (1.0..=10.0).contains(&spread) => {
                        Ok(Self::LogNormal { median: time(&median)?, spread })
                    }
                    _ => Err(format!("the spread {spread:?} is not a number from 1 to 10")),
                }
            }
            Some((other, _)) => Err(format!("{other:?} is not a distribution: use uniform or lognormal")),
        }
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |d: &Duration| humantime::format_duration(*d).to_string();
        match self {
            Self::Fixed(d) => f.write_str(&time(d)),
            Self::Uniform(low, high) => write!(f, "uniform:{},{}", time(low), time(high)),
            Self::LogNormal { median, spread } => write!(f, "lognormal:{},{spread}", time(median)),
        }
    }
}

impl TryFrom<String> for Delay {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Delay> for String {
    fn from(d: Delay) -> Self {
        d.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use rand::SeedableRng;

    #[test]
    fn what_people_write_is_understood_or_refused() {
        for text in ["20ms", "uniform:5ms,40ms", "lognormal:20ms,1.5", "1s 500ms"] {
            let delay: Delay = text.parse().unwrap();
            assert_eq!(delay.to_string(), text);
        }
        for text in
            ["", "20", "gauss:1ms,2", "uniform:5ms", "uniform:5ms,1ms", "lognormal:20ms,0.5", "lognormal:20ms,x", "2h"]
        {
            assert!(text.parse::<Delay>().is_err(), "{text}");
        }
    }

    #[test]
    fn draws_follow_the_distribution() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let delay: Delay = "lognormal:20ms,1.5".parse().unwrap();
        let mut drawn: Vec<_> = (0..10_000).map(|_| delay.sample(&mut rng)).collect();
        drawn.sort();
        let ms = |at: usize| drawn[at].as_secs_f64() * 1e3;
        assert!((19.0..21.0).contains(&ms(5_000)), "median {}", ms(5_000));
        assert!((28.5..31.5).contains(&ms(8_413)), "one standard deviation {}", ms(8_413));
        let delay: Delay = "uniform:5ms,40ms".parse().unwrap();
        for _ in 0..1_000 {
            let d = delay.sample(&mut rng);
            assert!(d >= Duration::from_millis(5) && d <= Duration::from_millis(40));
        }
    }
}
