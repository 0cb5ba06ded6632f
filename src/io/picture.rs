//! Pictures of screens: pixels from QEMU's PPM or a PNG, to PNG and JPEG, and how two of them differ.
//!
//! Pure: values in, values out, and nothing to clean up. A picture of 1280x800 takes some ten milliseconds to
//! encode or to compare, so callers do it where they may block.

use std::fmt;

/// Pixels, row by row from the top left, three bytes each: red, green, blue.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Picture({self})")
    }
}

impl fmt::Display for Picture {
    /// Its size, as `1280x800`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// A part of a picture, in pixels from the top left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// The first column.
    pub x: u32,
    /// The first row.
    pub y: u32,
    /// How many columns.
    pub width: u32,
    /// How many rows.
    pub height: u32,
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{} at {},{}", self.width, self.height, self.x, self.y)
    }
}

/// What makes no picture.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// Not the PPM that QEMU writes.
    #[error("expected a PPM picture of 8 bits a colour: {0}")]
    Ppm(&'static str),
    /// Not a PNG, or a broken one.
    #[error("expected a PNG picture")]
    Png(#[source] png::DecodingError),
    /// It could not be encoded.
    #[error("cannot write a PNG of {size}")]
    ToPng {
        /// Its size.
        size: String,
        /// Why not.
        #[source]
        source: png::EncodingError,
    },
    /// It could not be encoded.
    #[error("cannot write a JPEG of {size}")]
    ToJpeg {
        /// Its size.
        size: String,
        /// Why not.
        #[source]
        source: jpeg_encoder::EncodingError,
    },
}

/// How much the channels of a pixel may differ, of 255, before it counts as another pixel: what scaling and
/// analogue lines change is below, and any two colours of a text screen or a boot logo are further apart.
const SAME_COLOUR: u8 = 32;

impl Picture {
    /// A picture of these pixels; `None` if they are not `width` times `height` times three bytes.
    pub fn new(width: u32, height: u32, rgb: Vec<u8>) -> Option<Self> {
        let bytes = u128::from(width) * u128::from(height) * 3;
        (bytes > 0 && rgb.len() as u128 == bytes).then_some(Self { width, height, rgb })
    }

    /// Reads a binary PPM (`P6`) with one byte a colour; comments, which QEMU never writes, are not taken.
    pub fn from_ppm(bytes: &[u8]) -> Result<Self, PictureError> {
        let wrong = PictureError::Ppm;
        let mut fields = [""; 4];
        let mut at = 0;
        for field in &mut fields {
            let end = bytes[at..].iter().position(u8::is_ascii_whitespace).ok_or(wrong("its head is cut"))?;
            *field = str::from_utf8(&bytes[at..at + end]).map_err(|_| wrong("its head is no text"))?;
            at += end + 1;
        }
        let number = |text: &str| text.parse::<u32>().map_err(|_| wrong("its size is no number"));
        match fields {
            ["P6", width, height, "255"] => Self::new(number(width)?, number(height)?, bytes[at..].to_vec())
                .ok_or(wrong("its pixels are not as many as its head says")),
            _ => Err(wrong("its head is of another kind")),
        }
    }

    /// Reads a PNG of any kind; what is transparent in it counts as if it were not.
    pub fn from_png(bytes: &[u8]) -> Result<Self, PictureError> {
        let mut decoder = png::Decoder::new(std::io::Cursor::new(bytes));
        decoder.set_transformations(png::Transformations::normalize_to_color8());
        let mut reader = decoder.read_info().map_err(PictureError::Png)?;
        let too_large = PictureError::Png(png::DecodingError::LimitsExceeded);
        let mut pixels = vec![0; reader.output_buffer_size().ok_or(too_large)?];
        let info = reader.next_frame(&mut pixels).map_err(PictureError::Png)?;
        pixels.truncate(info.buffer_size());
        let rgb = match info.color_type {
            png::ColorType::Rgb | png::ColorType::Indexed => pixels,
            png::ColorType::Rgba => pixels.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
            png::ColorType::Grayscale => pixels.into_iter().flat_map(|grey| [grey; 3]).collect(),
            png::ColorType::GrayscaleAlpha => pixels.chunks_exact(2).flat_map(|p| [p[0]; 3]).collect(),
        };
        Ok(Self { width: info.width, height: info.height, rgb })
    }

    /// As a PNG.
    pub fn to_png(&self) -> Result<Vec<u8>, PictureError> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Fast);
        let written = encoder.write_header().and_then(|mut writer| {
            writer.write_image_data(&self.rgb)?;
            writer.finish()
        });
        written.map_err(|source| PictureError::ToPng { size: self.to_string(), source })?;
        Ok(bytes)
    }

    /// As a JPEG of that quality, from 1 to 100. A JPEG takes 65535 pixels a side, and no more.
    pub fn to_jpeg(&self, quality: u8) -> Result<Vec<u8>, PictureError> {
        let mut bytes = Vec::new();
        // What does not fit 16 bits is refused by the encoder: no picture has a side of 0.
        let side = |pixels: u32| u16::try_from(pixels).unwrap_or(0);
        jpeg_encoder::Encoder::new(&mut bytes, quality)
            .encode(&self.rgb, side(self.width), side(self.height), jpeg_encoder::ColorType::Rgb)
            .map_err(|source| PictureError::ToJpeg { size: self.to_string(), source })?;
        Ok(bytes)
    }

    /// Pixels in a row.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The pixel of that column and row, which must lie in the picture.
    pub fn pixel(&self, x: u32, y: u32) -> [u8; 3] {
        let at = (y as usize * self.width as usize + x as usize) * 3;
        [self.rgb[at], self.rgb[at + 1], self.rgb[at + 2]]
    }

    /// Whether all of its first rows, so many of them, are black.
    pub fn begins_black(&self, rows: u32) -> bool {
        let bytes = self.width as usize * 3 * rows.min(self.height) as usize;
        self.rgb[..bytes].iter().all(|channel| *channel == 0)
    }

    /// A part of it; `None` if some of that lies outside.
    pub fn cut(&self, region: Region) -> Option<Self> {
        let fits = |start: u32, length: u32, side: u32| {
            length > 0 && start.checked_add(length).is_some_and(|end| end <= side)
        };
        if !fits(region.x, region.width, self.width) || !fits(region.y, region.height, self.height) {
            return None;
        }
        let (row, start) = (self.width as usize * 3, region.x as usize * 3);
        let rows = self.rgb.chunks_exact(row).skip(region.y as usize).take(region.height as usize);
        let rgb = rows.flat_map(|row| &row[start..start + region.width as usize * 3]).copied().collect();
        Self::new(region.width, region.height, rgb)
    }

    /// The share of the pixels, from 0 to 1, that are another colour in `other`; `None` if its size differs.
    pub fn difference(&self, other: &Self) -> Option<f64> {
        let pairs = self.pairs(other)?;
        if self.rgb == other.rgb {
            return Some(0.0);
        }
        Some(self.share(pairs.filter(|(one, two)| differ(one, two)).count()))
    }

    /// This picture in faint grey, with the pixels that are another colour in `other` in red; `None` if its size
    /// differs.
    pub fn mark_difference(&self, other: &Self) -> Option<Self> {
        let mark = |(one, two): (&[u8], &[u8])| {
            let grey = one.iter().map(|channel| channel / 8).sum::<u8>();
            if differ(one, two) { [255, 0, 0] } else { [grey; 3] }
        };
        Self::new(self.width, self.height, self.pairs(other)?.flat_map(mark).collect())
    }

    /// The share of the pixels, from 0 to 1, that are not of its most frequent colour.
    pub fn drawn(&self) -> f64 {
        let ground = self.ground();
        self.share(self.rgb.chunks_exact(3).filter(|pixel| differ(pixel, &ground)).count())
    }

    /// The most frequent colour.
    fn ground(&self) -> [u8; 3] {
        let pixels: &[[u8; 3]] = self.rgb.as_chunks().0;
        let mut counts = std::collections::HashMap::new();
        // Screens are made of runs of one colour.
        for run in pixels.chunk_by(|one, two| one == two) {
            *counts.entry(run[0]).or_insert(0_usize) += run.len();
        }
        counts.into_iter().max_by_key(|(_, count)| *count).map_or([0; 3], |(colour, _)| colour)
    }

    fn pairs<'a>(&'a self, other: &'a Self) -> Option<impl Iterator<Item = (&'a [u8], &'a [u8])>> {
        let same_size = (self.width, self.height) == (other.width, other.height);
        same_size.then(|| self.rgb.chunks_exact(3).zip(other.rgb.chunks_exact(3)))
    }

    fn share(&self, pixels: usize) -> f64 {
        pixels as f64 / (self.rgb.len() / 3) as f64
    }
}

fn differ(one: &[u8], two: &[u8]) -> bool {
    one.iter().zip(two).any(|(one, two)| one.abs_diff(*two) > SAME_COLOUR)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chequered(width: u32, height: u32) -> Picture {
        let colour =
            |at: u32| if (at % width + at / width).is_multiple_of(2) { [200, 100, 0] } else { [0, 0, 0] };
        Picture::new(width, height, (0..width * height).flat_map(colour).collect()).unwrap()
    }

    #[test]
    fn a_picture_is_the_same_after_a_png() {
        let picture = chequered(33, 7);
        assert_eq!(Picture::from_png(&picture.to_png().unwrap()).unwrap(), picture);
        for broken in [&b""[..], b"\x89PNG\r\n\x1a\n", b"P6\n1 1\n255\n123"] {
            assert!(Picture::from_png(broken).is_err());
        }
    }

    #[test]
    fn a_ppm_is_read_and_a_cut_one_is_refused() {
        let ppm = b"P6\n2 1\n255\n\x01\x02\x03\n\x0b ";
        let picture = Picture::from_ppm(ppm).unwrap();
        assert_eq!((picture.pixel(0, 0), picture.pixel(1, 0)), ([1, 2, 3], [10, 11, 32]));
        for length in 0..ppm.len() {
            assert!(Picture::from_ppm(&ppm[..length]).is_err(), "{length} bytes");
        }
        assert!(Picture::from_ppm(b"P5\n1 1\n255\n123").is_err());
        assert!(Picture::from_ppm(b"P6\n4000000000 4000000000\n255\n123").is_err());
    }

    #[test]
    fn a_jpeg_has_its_marks_at_both_ends() {
        let jpeg = chequered(64, 48).to_jpeg(80).unwrap();
        assert!(jpeg.starts_with(&[0xff, 0xd8]) && jpeg.ends_with(&[0xff, 0xd9]));
        assert!(Picture::new(70_000, 1, vec![0; 210_000]).unwrap().to_jpeg(80).is_err());
    }

    #[test]
    fn a_difference_counts_pixels_and_not_shades() {
        let one = chequered(10, 10);
        assert_eq!(one.difference(&one), Some(0.0));
        let mut two = one.clone();
        two.rgb[0] -= SAME_COLOUR;
        assert_eq!(one.difference(&two), Some(0.0));
        two.rgb[0] -= 1;
        assert_eq!(one.difference(&two), Some(0.01));
        let marked = one.mark_difference(&two).unwrap();
        assert_eq!((marked.pixel(0, 0), marked.pixel(1, 0)), ([255, 0, 0], [0, 0, 0]));
        assert_eq!(one.difference(&chequered(10, 9)), None);
    }

    #[test]
    fn a_region_is_cut_out_and_must_lie_inside() {
        let picture = chequered(4, 3);
        let region = Region { x: 1, y: 1, width: 3, height: 2 };
        let cut = picture.cut(region).unwrap();
        assert_eq!((cut.width(), cut.height(), cut.pixel(0, 0)), (3, 2, picture.pixel(1, 1)));
        for outside in [
            Region { x: 2, ..region },
            Region { y: 2, ..region },
            Region { width: 0, ..region },
            Region { x: u32::MAX, ..region },
        ] {
            assert_eq!(picture.cut(outside), None, "{outside}");
        }
    }

    #[test]
    fn what_is_drawn_is_all_but_the_commonest_colour() {
        let mut picture = Picture::new(10, 10, vec![90; 300]).unwrap();
        assert_eq!(picture.drawn(), 0.0);
        picture.rgb[..9].fill(255);
        assert_eq!(picture.drawn(), 0.03);
    }
}
