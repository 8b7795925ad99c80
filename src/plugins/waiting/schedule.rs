//! When a timer is due: every so often, once after a while, or by a line of cron.
//!
//! Cron is read here because the crates that do it bring a calendar library along for what is a hundred lines in UTC.

use std::fmt;
use std::time::Duration;

use crate::kernel::message::Micros;

/// A timer ticks at most this often.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(366 * 86_400);
/// February 29th may be eight years away.
const DAYS_AHEAD: u64 = 9 * 366;

#[derive(Clone, PartialEq, Debug)]
pub enum Schedule {
    /// Every so often, and for the first time after another while.
    Every {
        period: Duration,
        first: Duration,
    },
    After(Duration),
    Cron(Box<Cron>),
}

impl Schedule {
    pub fn every(period: Duration, first: Option<Duration>) -> Result<Schedule, String> {
        if !(SHORTEST..=LONGEST).contains(&period) {
            return Err(format!("a timer ticks every {SHORTEST:?} at most and once a year at least, got {period:?}"));
        }
        let first = first.unwrap_or(period);
        if first > LONGEST { Err("first: at most a year".into()) } else { Ok(Schedule::Every { period, first }) }
    }

    pub fn after(time: Duration) -> Result<Schedule, String> {
        if time > LONGEST { Err("a timer waits a year at most".into()) } else { Ok(Schedule::After(time)) }
    }

    /// When it is due for the first time, if it begins at `now`.
    pub fn first(&self, now: Micros) -> Option<Micros> {
        match self {
            Schedule::Every { first, .. } => Some(now.saturating_add(micros(*first))),
            Schedule::After(time) => Some(now.saturating_add(micros(*time))),
            Schedule::Cron(cron) => cron.next(now),
        }
    }

    /// When it is due again after `due`, seen from `now`: what was missed is not made up for.
    pub fn next(&self, due: Micros, now: Micros) -> Option<Micros> {
        match self {
            Schedule::Every { period, .. } => {
                let period = micros(*period);
                let missed = now.saturating_sub(due) / period;
                Some(due.saturating_add(period.saturating_mul(missed + 1)))
            }
            Schedule::After(_) => None,
            Schedule::Cron(cron) => cron.next(now.max(due)),
        }
    }
}

fn micros(time: Duration) -> Micros {
    time.as_micros().try_into().unwrap_or(Micros::MAX)
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Schedule::Every { period, .. } => write!(f, "every {period:?}"),
            Schedule::After(time) => write!(f, "after {time:?}"),
            Schedule::Cron(cron) => write!(f, "cron {}", cron.text),
        }
    }
}

/// Minute, hour, day of the month, month, day of the week; in UTC. A bit for each value.
#[derive(Clone, PartialEq, Debug)]
pub struct Cron {
    text: String,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both days are restricted: then either will do, as cron always had it.
    either_day: bool,
}

struct Field {
    name: &'static str,
    from: u32,
    to: u32,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", from: 0, to: 59, names: &[] },
    Field { name: "hour", from: 0, to: 23, names: &[] },
    Field { name: "day of the month", from: 1, to: 31, names: &[] },
    Field {
        name: "month",
        from: 1,
        to: 12,
        names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    },
    Field { name: "day of the week", from: 0, to: 7, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] },
];

impl Field {
    fn read(&self, text: &str) -> Result<u64, String> {
        text.split(',').try_fold(0, |bits, part| Ok(bits | self.read_part(part)?))
    }

    fn read_part(&self, part: &str) -> Result<u64, String> {
        let wrong = |why: &str| format!("{part:?} is no {}: {why}", self.name);
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => {
                let step = step.parse().ok().filter(|step| (1..=self.to).contains(step));
                (range, step.ok_or_else(|| wrong("what follows / is a number above 0"))?)
            }
            None => (part, 1),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (self.from, self.to),
            Some((from, to)) => (self.value(from)?, self.value(to)?),
            // `5/15` means from 5 on.
            None if step > 1 => (self.value(range)?, self.to),
            None => (self.value(range)?, self.value(range)?),
        };
        if from > to {
            return Err(wrong("it ends before it begins"));
        }
        Ok((from..=to).step_by(step as usize).fold(0, |bits, value| bits | 1 << value))
    }

    fn value(&self, text: &str) -> Result<u32, String> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let value = named.map(|at| at as u32 + self.from).or_else(|| text.parse().ok());
        value
            .filter(|value| (self.from..=self.to).contains(value))
            .ok_or_else(|| format!("{text:?} is no {}: it goes from {} to {}", self.name, self.from, self.to))
    }
}

impl Cron {
    pub fn parse(text: &str) -> Result<Cron, String> {
        let parts: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts[..] else {
            let why =
                "expected five fields (minute, hour, day of the month, month, day of the week) like \"*/5 * * * *\"";
            return Err(format!("{why}, got {} in {text:?}", parts.len()));
        };
        let [minutes, hours, days, months, mut weekdays] = [
            FIELDS[0].read(minute)?,
            FIELDS[1].read(hour)?,
            FIELDS[2].read(day)?,
            FIELDS[3].read(month)?,
            FIELDS[4].read(weekday)?,
        ];
        // Sunday is 0 and 7.
        weekdays = (weekdays | weekdays >> 7) & 0x7f;
        let either_day = !day.starts_with('*') && !weekday.starts_with('*');
        let cron = Cron { text: parts.join(" "), minutes, hours, days, months, weekdays, either_day };
        // 2024 began on a Monday and has a February 29th.
        cron.next(1_704_067_200_000_000).map(|_| cron).ok_or_else(|| format!("{text:?} never comes"))
    }

    /// The first minute after `now` that fits.
    fn next(&self, now: Micros) -> Option<Micros> {
        let minute = now / 60_000_000 + 1;
        let (today, of_today) = (minute / 1440, minute % 1440);
        (0..DAYS_AHEAD).find_map(|ahead| {
            let day = today + ahead;
            if !self.fits(day) {
                return None;
            }
            let from = if ahead == 0 { of_today } else { 0 };
            let fits = |m: &u64| self.hours >> (m / 60) & 1 == 1 && self.minutes >> (m % 60) & 1 == 1;
            (from..1440).find(fits).map(|m| (day * 1440 + m) * 60_000_000)
        })
    }

    fn fits(&self, day: u64) -> bool {
        let (month, of_month) = date(day);
        // The epoch began on a Thursday.
        let weekday = self.weekdays >> ((day + 4) % 7) & 1 == 1;
        let monthday = self.days >> of_month & 1 == 1;
        let fits = if self.either_day { weekday || monthday } else { weekday && monthday };
        fits && self.months >> month & 1 == 1
    }
}

/// Month and day of the month of a day since the epoch (Hinnant's civil_from_days).
fn date(day: u64) -> (u64, u64) {
    let of_era = (day + 719_468) % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    (if shifted < 10 { shifted + 3 } else { shifted - 9 }, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::format_description::well_known::Rfc3339;
    use time::{Duration as Span, OffsetDateTime};

    fn at(text: &str) -> Micros {
        (OffsetDateTime::parse(text, &Rfc3339).unwrap().unix_timestamp_nanos() / 1000) as Micros
    }

    fn next(cron: &str, from: &str) -> String {
        let next = Cron::parse(cron).unwrap().next(at(from)).unwrap();
        OffsetDateTime::from_unix_timestamp((next / 1_000_000) as i64).unwrap().format(&Rfc3339).unwrap()
    }

    #[test]
    fn cron_lines_mean_what_they_always_meant() {
        for (cron, from, to) in [
            ("*/5 * * * *", "2026-11-21T12:47:16Z", "2026-11-21T12:50:00Z"),
            ("*/5 * * * *", "2026-11-21T12:50:00Z", "2026-11-21T12:55:00Z"),
            ("0 0 * * *", "2026-12-31T23:59:59Z", "2027-01-01T00:00:00Z"),
            ("30 4 1,15 * *", "2026-02-15T05:00:00Z", "2026-03-01T04:30:00Z"),
            ("0 9 * * mon-fri", "2026-11-21T12:00:00Z", "2026-11-23T09:00:00Z"),
            ("0 12 * * 7", "2026-11-21T12:00:00Z", "2026-11-22T12:00:00Z"),
            ("0 0 29 feb *", "2026-11-21T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 13 * fri", "2026-11-21T00:00:00Z", "2026-11-27T00:00:00Z"),
            ("5/20 8-10/2 * * *", "2026-11-21T08:25:00Z", "2026-11-21T08:45:00Z"),
            ("5/20 8-10/2 * * *", "2026-11-21T08:46:00Z", "2026-11-21T10:05:00Z"),
        ] {
            assert_eq!(next(cron, from), to, "{cron} after {from}");
        }
    }

    #[test]
    fn a_date_is_the_calendars_for_a_hundred_years() {
        let mut day = OffsetDateTime::UNIX_EPOCH;
        for n in 0..36_525 {
            assert_eq!(date(n), (u8::from(day.month()).into(), day.day().into()), "{day}");
            day += Span::days(1);
        }
    }

    #[test]
    fn what_is_no_cron_line_is_told_why() {
        for (cron, why) in [
            ("* * * *", "expected five fields"),
            ("60 * * * *", "\"60\" is no minute: it goes from 0 to 59"),
            ("* * 0 * *", "\"0\" is no day of the month"),
            ("*/0 * * * *", "a number above 0"),
            ("5-2 * * * *", "it ends before it begins"),
            ("* * * fev *", "\"fev\" is no month"),
            ("0 0 31 feb *", "never comes"),
            ("0 0 1-a * *", "\"a\" is no day of the month"),
        ] {
            let error = Cron::parse(cron).unwrap_err();
            assert!(error.contains(why), "{cron}: {error}");
        }
    }

    #[test]
    fn a_timer_does_not_make_up_for_what_it_missed_and_keeps_its_beat() {
        let every = Schedule::every(Duration::from_secs(10), None).unwrap();
        let second = 1_000_000;
        assert_eq!(every.first(5 * second), Some(15 * second));
        assert_eq!(every.next(15 * second, 15 * second), Some(25 * second));
        assert_eq!(every.next(15 * second, 58 * second), Some(65 * second));
        let soon = Schedule::every(Duration::from_secs(10), Some(Duration::ZERO)).unwrap();
        assert_eq!(soon.first(second), Some(second));
        assert_eq!(Schedule::after(Duration::from_secs(1)).unwrap().next(1, 2), None);
        assert!(Schedule::every(Duration::from_millis(1), None).is_err());
    }
}
