//! Seconds since 1970 and the calendar, in UTC and without leap seconds.

/// A second of the proleptic Gregorian calendar, in UTC, in the years 1 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Civil {
    pub year: u16,
    pub month: u8,
    pub day: u8,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
}

const SECONDS_PER_DAY: u64 = 86_400;
/// Days of 400 years, after which the calendar repeats.
const DAYS_PER_CYCLE: u64 = 146_097;
/// Days from 1 March of the year 0 to 1 January 1970.
const EPOCH: u64 = 719_468;
/// 1 January 10000.
const END: u64 = 253_402_300_800;

impl Civil {
    /// The second that is `seconds` after the start of 1970; `None` after the year 9999.
    #[must_use]
    pub fn from_unix(seconds: u64) -> Option<Self> {
        if seconds >= END {
            return None;
        }
        let day = seconds / SECONDS_PER_DAY + EPOCH;
        let second = seconds % SECONDS_PER_DAY;
        // Years that start in March have the leap day at their end.
        let (cycle, of_cycle) = (day / DAYS_PER_CYCLE, day % DAYS_PER_CYCLE);
        let leaps = of_cycle / 1_460 - of_cycle / 36_524 + of_cycle / 146_096;
        let year = (of_cycle - leaps) / 365;
        let of_year = of_cycle - (365 * year + year / 4 - year / 100);
        let march_month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * march_month + 2) / 5 + 1;
        let month = (march_month + 2) % 12 + 1;
        let year = cycle * 400 + year + u64::from(month <= 2);
        Some(Self {
            year: u16::try_from(year).ok()?,
            month: u8::try_from(month).ok()?,
            day: u8::try_from(day).ok()?,
            hour: u8::try_from(second / 3_600).ok()?,
            minute: u8::try_from(second / 60 % 60).ok()?,
            second: u8::try_from(second % 60).ok()?,
        })
    }

    /// How many seconds after the start of 1970 it is; `None` before.
    #[must_use]
    pub fn to_unix(self) -> Option<u64> {
        let month = u64::from(self.month);
        let year = u64::from(self.year) - u64::from(month <= 2).min(u64::from(self.year));
        let of_year = (153 * ((month + 9) % 12) + 2) / 5 + u64::from(self.day).checked_sub(1)?;
        let day = year * 365 + year / 4 - year / 100 + year / 400 + of_year;
        let second =
            u64::from(self.hour) * 3_600 + u64::from(self.minute) * 60 + u64::from(self.second);
        Some(day.checked_sub(EPOCH)? * SECONDS_PER_DAY + second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_is_the_day_after_the_one_before() {
        let (mut year, mut month, mut day) = (1970_u16, 1_u8, 1_u8);
        for number in 0..END / SECONDS_PER_DAY {
            let civil = Civil::from_unix(number * SECONDS_PER_DAY).unwrap();
            assert_eq!((civil.year, civil.month, civil.day), (year, month, day));
            assert_eq!(civil.to_unix(), Some(number * SECONDS_PER_DAY));
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let days = match month {
                2 => 28 + u8::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > days {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
        assert_eq!(year, 10_000);
        assert_eq!(Civil::from_unix(END), None);
    }

    #[test]
    fn a_time_of_day_is_kept() {
        let civil = Civil::from_unix(1_700_000_000).unwrap();
        assert_eq!((civil.hour, civil.minute, civil.second), (22, 13, 20));
        assert_eq!(civil.to_unix(), Some(1_700_000_000));
    }

    #[test]
    fn times_before_1970_are_refused() {
        let before = Civil {
            year: 1969,
            month: 12,
            day: 31,
            hour: 23,
            minute: 59,
            second: 59,
        };
        assert_eq!(before.to_unix(), None);
        assert_eq!(
            Civil {
                year: 1,
                month: 1,
                ..before
            }
            .to_unix(),
            None
        );
    }
}
