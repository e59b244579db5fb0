//! sRGB bytes to CIELAB (D65), by tables: the same bits wherever it runs.

/// Steps of the table of CIELAB's f over 0 to 1.
const STEPS: usize = 4_096;

/// Tables made once.
pub struct Lab {
    /// A byte's linear light.
    linear: Vec<f32>,
    /// f at `i / STEPS`, and one past the end.
    f: Vec<f32>,
}

impl Lab {
    /// Values of both tables.
    pub const VALUES: usize = 256 + STEPS + 2;

    pub fn new() -> Self {
        let linear = |byte: u16| {
            let value = f64::from(byte) / 255.0;
            if value <= 0.040_45 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        let f = |step: usize| {
            let t = step as f64 / STEPS as f64;
            if t > 216.0 / 24_389.0 { t.cbrt() } else { (24_389.0 / 27.0 * t + 16.0) / 116.0 }
        };
        Self { linear: (0..256).map(|byte| linear(byte) as f32).collect(), f: (0..STEPS + 2).map(|step| f(step) as f32).collect() }
    }

    /// L in 0 to 100, a, b.
    pub fn of(&self, rgb: [u8; 3]) -> [f32; 3] {
        let [r, g, b] = rgb.map(|byte| self.linear[usize::from(byte)]);
        let x = self.at((0.412_456_4 * r + 0.357_576_1 * g + 0.180_437_5 * b) / 0.950_47);
        let y = self.at(0.212_672_9 * r + 0.715_152_2 * g + 0.072_175 * b);
        let z = self.at((0.019_333_9 * r + 0.119_192 * g + 0.950_304_1 * b) / 1.088_83);
        [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
    }

    fn at(&self, t: f32) -> f32 {
        let place = t.clamp(0.0, 1.0) * STEPS as f32;
        let low = place as usize;
        let part = place - low as f32;
        self.f[low] + (self.f[low + 1] - self.f[low]) * part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_colours() {
        // From Lindbloom's calculator, sRGB and D65.
        for (rgb, wanted) in [
            ([255, 255, 255], [100.0, 0.0, 0.0]),
            ([0, 0, 0], [0.0, 0.0, 0.0]),
            ([255, 0, 0], [53.24, 80.09, 67.20]),
            ([0, 255, 0], [87.73, -86.18, 83.18]),
            ([0, 0, 255], [32.30, 79.19, -107.86]),
            ([119, 119, 119], [50.03, 0.0, 0.0]),
        ] {
            let found = Lab::new().of(rgb);
            assert!(found.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() < 0.05), "{rgb:?}: {found:?}");
        }
    }
}
