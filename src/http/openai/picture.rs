//! The picture that an `image_url` names: a data URL, or a frame of the daemon's.

use data_url::DataUrl;

use crate::http::failure::Failure;
use crate::journal::FrameRef;

/// A picture of a request.
#[derive(Debug)]
pub enum Picture {
    Frame(FrameRef),
    /// A file's bytes, of any kind; what they are is found out when they are taken in.
    Bytes(Vec<u8>),
}

/// What `url` names.
///
/// # Errors
/// Anything but `frame:ID`, `frame:newest` and the data URL of a picture. Nothing is ever fetched.
pub fn picture(url: &str) -> Result<Picture, Failure> {
    let bad = |wanted: &str, found: String| Failure::bad("image_url", format!("image_url: wanted {wanted}, found {found}"));
    let start = || format!("{:?}", url.chars().take(40).collect::<String>());
    if let Some(frame) = url.strip_prefix("frame:") {
        return crate::http::questions::frame_ref(frame).map(Picture::Frame);
    }
    // Not the crate's own leniency: spaces and line breaks in a scheme are nobody's picture.
    if !url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:")) {
        return Err(bad("a data URL, frame:ID or frame:newest (nothing is fetched from elsewhere)", start()));
    }
    let data = DataUrl::process(url).map_err(|error| bad("a data URL", error.to_string()))?;
    let kind = data.mime_type();
    if !kind.type_.eq_ignore_ascii_case("image") {
        return Err(bad("the data URL of a picture", format!("one of {}/{}", kind.type_, kind.subtype)));
    }
    let (bytes, _) = data.decode_to_vec().map_err(|error| bad("a data URL in base64", error.to_string()))?;
    if bytes.is_empty() {
        return Err(bad("the data URL of a picture", "one without data".into()));
    }
    Ok(Picture::Bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::FrameId;

    #[test]
    fn frames_and_data_urls_are_told_apart() {
        assert!(matches!(picture("frame:newest"), Ok(Picture::Frame(FrameRef::Newest))));
        let id = FrameId([0, 1, 2, 3, 4, 5, 6, 255]);
        assert!(matches!(picture("frame:00010203040506ff"), Ok(Picture::Frame(FrameRef::Id(found))) if found == id));
        assert!(matches!(picture("data:image/png;base64,AAEC"), Ok(Picture::Bytes(bytes)) if bytes == [0, 1, 2]));
        assert!(matches!(picture("DATA:IMAGE/JPEG;base64,/9j/"), Ok(Picture::Bytes(bytes)) if bytes == [255, 216, 255]));
        for (url, message) in [
            ("", "wanted a data URL, frame:ID or frame:newest"),
            ("https://example.com/a.jpg", "nothing is fetched"),
            ("file:///etc/passwd", "nothing is fetched"),
            ("frame:../../etc/passwd", "wanted an id of 16"),
            ("data:text/plain,hello", "found one of text/plain"),
            ("data:;base64,AAEC", "found one of text/plain"),
            ("data:image/png;base64", "missing comma"),
            ("data:image/png;base64,!!!!", "in base64"),
            ("data:image/png;base64,", "without data"),
            ("data\n:image/png;base64,AAEC", "wanted a data URL"),
        ] {
            let failure = picture(url).unwrap_err();
            assert!(failure.message.contains(message), "{url}: {}", failure.message);
        }
    }
}
