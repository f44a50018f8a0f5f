//! The pictures, rendered from `icons/` by `icons/render`.

use std::io::Cursor;

use tray_icon::{Icon, menu::Icon as MenuIcon};

use crate::menu::Mood;

/// The icon of the tray: one size, which panels scale.
pub(crate) fn tray(mood: Mood) -> Option<Icon> {
    let (rgba, width, height) = decode(match mood {
        Mood::Idle => include_bytes!("../icons/tray-idle.png"),
        Mood::Connected => include_bytes!("../icons/tray-connected.png"),
        Mood::Connecting => include_bytes!("../icons/tray-connecting.png"),
        Mood::Conflict => include_bytes!("../icons/tray-conflict.png"),
        Mood::Error => include_bytes!("../icons/tray-error.png"),
    })?;
    Icon::from_rgba(rgba, width, height).ok()
}

/// The dot before a profile in the menu.
pub(crate) fn dot(mood: Mood) -> Option<MenuIcon> {
    let (rgba, width, height) = decode(match mood {
        Mood::Idle => include_bytes!("../icons/dot-idle.png"),
        Mood::Connected => include_bytes!("../icons/dot-connected.png"),
        Mood::Connecting => include_bytes!("../icons/dot-connecting.png"),
        Mood::Conflict => include_bytes!("../icons/dot-conflict.png"),
        Mood::Error => include_bytes!("../icons/dot-error.png"),
    })?;
    MenuIcon::from_rgba(rgba, width, height).ok()
}

/// A PNG of our own with eight bits of red, green, blue and alpha.
fn decode(png: &[u8]) -> Option<(Vec<u8>, u32, u32)> {
    let mut reader = png::Decoder::new(Cursor::new(png)).read_info().ok()?;
    let mut rgba = vec![0; reader.output_buffer_size()?];
    let info = reader.next_frame(&mut rgba).ok()?;
    rgba.truncate(info.buffer_size());
    Some((rgba, info.width, info.height))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_pictures_of_its_own() {
        let moods = [
            Mood::Idle,
            Mood::Connected,
            Mood::Connecting,
            Mood::Conflict,
            Mood::Error,
        ];
        for mood in moods {
            assert!(tray(mood).is_some() && dot(mood).is_some(), "{mood:?}");
        }
        let pictures: [&[u8]; 5] = [
            include_bytes!("../icons/tray-idle.png"),
            include_bytes!("../icons/tray-connected.png"),
            include_bytes!("../icons/tray-connecting.png"),
            include_bytes!("../icons/tray-conflict.png"),
            include_bytes!("../icons/tray-error.png"),
        ];
        for (at, picture) in pictures.iter().enumerate() {
            let (rgba, width, height) = decode(picture).unwrap();
            assert_eq!((width, height), (48, 48));
            assert_eq!(rgba.len(), 48 * 48 * 4);
            assert!(!pictures[..at].contains(picture));
        }
    }
}
