//! A chart as a picture of pixels, for places that take no SVG.

use resvg::tiny_skia::{Color, Pixmap, Transform};
use resvg::usvg::{Options, Tree};

use crate::{Error, Result};

/// Pixels for each unit of the drawing.
const SCALE: f32 = 2.;

/// PNG bytes of an SVG on white; text is set in a typeface that is compiled in, so that it is the same everywhere.
pub(crate) fn png(name: &'static str, svg: &str) -> Result<Vec<u8>> {
    let problem = |e: &dyn std::fmt::Display| Error::Chart { name, problem: e.to_string() };
    let mut options = Options::default();
    let fonts = options.fontdb_mut();
    fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
    let family =
        fonts.faces().next().and_then(|face| Some(face.families.first()?.0.clone())).unwrap_or_default();
    fonts.set_sans_serif_family(&family);
    options.font_family = family;
    let tree = Tree::from_str(svg, &options).map_err(|e| problem(&e))?;
    let size = tree.size();
    let (width, height) = ((size.width() * SCALE) as u32, (size.height() * SCALE) as u32);
    let mut pixels = Pixmap::new(width, height).ok_or_else(|| problem(&"it has no size"))?;
    pixels.fill(Color::WHITE);
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    pixels.encode_png().map_err(|e| problem(&e))
}
