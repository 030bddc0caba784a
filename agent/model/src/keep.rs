//! Decides which releases may be removed.

use crate::names::ReleaseName;

/// Why a release stays, whatever its age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// The link `app` names it.
    Live,
    /// It was live before the live one: the way back.
    Previous,
    /// An operator pinned it.
    Pinned,
    /// A process still runs from it.
    InUse,
}

/// A release on disk, and the reason to keep it.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The release's name, which contains its age.
    pub name: ReleaseName,
    /// The reason to keep it, if there is one.
    pub hold: Option<Hold>,
}

/// The releases beyond the newest `keep`, without the held ones; oldest first. A held release counts among the newest.
pub fn removable(mut releases: Vec<Kept>, keep: usize) -> Vec<ReleaseName> {
    releases.sort_by(|a, b| b.name.cmp(&a.name));
    let mut old: Vec<ReleaseName> =
        releases.into_iter().skip(keep).filter(|release| release.hold.is_none()).map(|release| release.name).collect();
    old.reverse();
    old
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(day: u8, hold: Option<Hold>) -> Kept {
        Kept { name: format!("2026-11-{day:02}-00-00-00-0123456789ab").parse().unwrap(), hold }
    }

    #[test]
    fn what_is_held_stays_and_the_newest_stay() {
        for holds in 0..5_u32.pow(4) {
            for keep in 0..6 {
                let hold_of = |place: u32| match holds / 5_u32.pow(place) % 5 {
                    0 => Some(Hold::Live),
                    1 => Some(Hold::Previous),
                    2 => Some(Hold::Pinned),
                    3 => Some(Hold::InUse),
                    _ => None,
                };
                let releases: Vec<Kept> = (0..4_u32).map(|place| kept(u8::try_from(place).unwrap() + 1, hold_of(place))).collect();
                let removed = removable(releases.clone(), keep);
                for (place, release) in releases.iter().enumerate() {
                    let among_newest = 4 - place <= keep;
                    let expected = release.hold.is_none() && !among_newest;
                    assert_eq!(removed.contains(&release.name), expected, "keep {keep}, place {place}, {:?}", release.hold);
                }
                assert!(removed.is_sorted(), "oldest first");
            }
        }
    }
}
