//! What an ONNX file says of its inputs and outputs, and which files its weights are in.
//!
//! # Why
//! Engines are built by another program; what is asked of it must be right before it takes its minutes. Weights, which may be gigabytes, are passed over where
//! they lie, and what is kept has a bound, so that a hostile file takes no more than an honest one. Numbers of fields are those of ONNX's `onnx.proto`.

use std::collections::BTreeSet;
use std::path::Path;

use crate::kernels::map_file;

/// Most inputs, and most outputs.
const MAX_VALUES: usize = 1_024;
const MAX_DIMS: usize = 8;
const MAX_NAME: usize = 256;
/// Of graphs within graphs.
const MAX_DEPTH: usize = 8;
/// Most files of weights.
const MAX_FILES: usize = 16;

/// An input or an output.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Declared {
    pub name: String,
    /// ONNX's number of the type.
    pub dtype: i32,
    /// `None`: any number.
    pub dims: Vec<Option<u32>>,
}

/// A graph's face.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct OnnxFile {
    pub inputs: Vec<Declared>,
    pub outputs: Vec<Declared>,
    /// Names of files that hold weights, as the graph has them.
    pub external: BTreeSet<String>,
}

impl OnnxFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// Why it can't be read or isn't a graph.
    pub fn read(path: &Path) -> Result<Self, String> {
        let bytes = map_file(path).map_err(|error| error.to_string())?;
        Self::parse(&bytes).map_err(|reason| format!("wanted an ONNX graph, found {reason}"))
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        // `ModelProto.functions`: their nodes may name files too, and no graph of ours has them.
        if messages(bytes, 25).next().transpose()?.is_some() {
            return Err("functions of its own".into());
        }
        // `ModelProto.graph`.
        let graph = only(messages(bytes, 7), "graphs")?.ok_or("none in it")?;
        let mut found = Self::default();
        found.take_nodes(graph, 0)?;
        for field in Fields(graph) {
            match field? {
                (11, Field::Bytes(value)) => keep(&mut found.inputs, declared(value)?, MAX_VALUES, "inputs")?,
                (12, Field::Bytes(value)) => keep(&mut found.outputs, declared(value)?, MAX_VALUES, "outputs")?,
                _ => {}
            }
        }
        Ok(found)
    }

    /// The files that a graph's weights are in, its nodes' and those of the graphs within them.
    fn take_nodes(&mut self, graph: &[u8], depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("graphs within graphs, more than {MAX_DEPTH} deep"));
        }
        for field in Fields(graph) {
            match field? {
                // `GraphProto.node`, and of it `NodeProto.attribute`.
                (1, Field::Bytes(node)) => {
                    for attribute in messages(node, 5) {
                        self.take_attribute(attribute?, depth)?;
                    }
                }
                (5, Field::Bytes(weights)) => self.take_weights(weights)?,
                (15, Field::Bytes(_)) => return Err("sparse weights".into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// `AttributeProto`: a tensor or a graph, or several.
    fn take_attribute(&mut self, attribute: &[u8], depth: usize) -> Result<(), String> {
        for field in Fields(attribute) {
            match field? {
                (5 | 10, Field::Bytes(tensor)) => self.take_weights(tensor)?,
                (6 | 11, Field::Bytes(graph)) => self.take_nodes(graph, depth + 1)?,
                (22 | 23, Field::Bytes(_)) => return Err("sparse weights".into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// `TensorProto.external_data`, pairs of a key and a value. Twice the same field would be read in one way here and in another there.
    fn take_weights(&mut self, weights: &[u8]) -> Result<(), String> {
        for entry in messages(weights, 13) {
            let entry = entry?;
            if only(messages(entry, 1), "keys of a place of weights")? == Some(b"location") {
                self.external.insert(name(only(messages(entry, 2), "places of weights")?.unwrap_or_default())?);
            }
        }
        if self.external.len() > MAX_FILES { Err(format!("weights in more than {MAX_FILES} files")) } else { Ok(()) }
    }
}

/// The graph `model` with `number` where inputs and outputs have a dimension called `name`.
///
/// # Why
/// A number may be written in more bytes than it needs (protobuf.dev, "Base 128 Varints"), so it takes the place of the name and of nothing else.
///
/// # Errors
/// What isn't a graph, or has no such dimension.
pub(super) fn with_number(mut model: Vec<u8>, name: &str, number: u32) -> Result<Vec<u8>, String> {
    let mut places = Vec::new();
    let graph = only(messages(&model, 7), "graphs")?.ok_or("none in it")?;
    for field in Fields(graph) {
        let (11 | 12, Field::Bytes(value)) = field? else { continue };
        for kind in messages(value, 2) {
            for tensor in messages(kind?, 1) {
                for shape in messages(tensor?, 2) {
                    for dim in messages(shape?, 1) {
                        let dim = dim?;
                        if only(messages(dim, 2), "names of a dimension")? == Some(name.as_bytes()) && dim.len() == name.len() + 2 {
                            places.push(dim.as_ptr().addr() - model.as_ptr().addr());
                        }
                    }
                }
            }
        }
    }
    if places.is_empty() {
        return Err(format!("no dimension called {name}"));
    }
    // `Dimension.dim_value`, and seven bits a byte, each but the last with another after it.
    let mut bytes = vec![8];
    let low = (0..=name.len()).map(|place| u64::from(number) >> (7 * place) & 0x7F | 0x80);
    bytes.extend(low.filter_map(|byte| u8::try_from(byte).ok()));
    if let Some(last) = bytes.last_mut() {
        *last &= 0x7F;
    }
    places.iter().for_each(|at| model[*at..][..bytes.len()].copy_from_slice(&bytes));
    Ok(model)
}

/// The one that there may be.
fn only<'a>(mut all: impl Iterator<Item = Result<&'a [u8], String>>, what: &str) -> Result<Option<&'a [u8]>, String> {
    let first = all.next().transpose()?;
    if all.next().is_some() { Err(format!("more than one of {what}")) } else { Ok(first) }
}

fn keep<T>(all: &mut Vec<T>, one: T, most: usize, what: &str) -> Result<(), String> {
    if all.len() == most {
        return Err(format!("more than {most} {what}"));
    }
    all.push(one);
    Ok(())
}

fn name(bytes: &[u8]) -> Result<String, String> {
    if bytes.len() > MAX_NAME {
        return Err(format!("a name of {} bytes", bytes.len()));
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| "a name that isn't UTF-8".into())
}

/// `ValueInfoProto`: a name and a type, which is a tensor's or stays without dimensions.
fn declared(value: &[u8]) -> Result<Declared, String> {
    let mut found = Declared::default();
    for field in Fields(value) {
        match field? {
            (1, Field::Bytes(bytes)) => found.name = name(bytes)?,
            (2, Field::Bytes(kind)) => messages(kind, 1).try_for_each(|tensor| tensor_type(tensor?, &mut found))?,
            _ => {}
        }
    }
    Ok(found)
}

/// `TypeProto.Tensor`: a type of values and a shape.
fn tensor_type(tensor: &[u8], found: &mut Declared) -> Result<(), String> {
    for field in Fields(tensor) {
        match field? {
            (1, Field::Number(dtype)) => found.dtype = i32::try_from(dtype).unwrap_or_default(),
            (2, Field::Bytes(shape)) => {
                for dim in messages(shape, 1) {
                    let mut number = None;
                    for field in Fields(dim?) {
                        if let (1, Field::Number(dim)) = field? {
                            // 0, and what is below it, is no dimension but any.
                            number = u32::try_from(dim).ok().filter(|dim| *dim > 0);
                        }
                    }
                    keep(&mut found.dims, number, MAX_DIMS, "dimensions of a tensor")?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// What a field of a protocol buffer holds.
#[derive(Clone, Copy)]
enum Field<'a> {
    Number(u64),
    /// A text, a message, packed numbers.
    Bytes(&'a [u8]),
    /// Four or eight bytes.
    Fixed,
}

/// The fields of a message, in the order of the file, with their numbers.
struct Fields<'a>(&'a [u8]);

/// The messages or texts of field `number`.
fn messages(bytes: &[u8], number: u64) -> impl Iterator<Item = Result<&[u8], String>> {
    Fields(bytes).filter_map(move |field| match field {
        Ok((found, Field::Bytes(bytes))) if found == number => Some(Ok(bytes)),
        Ok(_) => None,
        Err(reason) => Some(Err(reason.into())),
    })
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Number(self.varint()?),
            1 => self.bytes(8).map(|_| Field::Fixed)?,
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                Field::Bytes(self.bytes(len)?)
            }
            5 => self.bytes(4).map(|_| Field::Fixed)?,
            _ => return None,
        };
        Some((key >> 3, field))
    }

    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    /// Seven bits a byte, the lowest first, at most ten bytes.
    fn varint(&mut self) -> Option<u64> {
        let len = self.0.iter().take(10).position(|byte| byte & 0x80 == 0)? + 1;
        let bytes = self.bytes(len)?;
        Some(bytes.iter().rev().fold(0, |number, byte| number << 7 | u64::from(byte & 0x7F)))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Field<'a>), &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        // Nothing can be read after what can't.
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or("a field that is cut off or of no known kind"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field of a message or text.
    fn field(number: u8, body: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(body.len()).unwrap()][..], body].concat()
    }

    /// A graph with weights of its own, weights elsewhere, an input of a number and a name, and an output.
    fn graph() -> Vec<u8> {
        let dims = [field(1, &[8, 3]), field(1, &field(2, b"any"))].concat();
        let tensor = [&[8, 10][..], &field(2, &dims)].concat();
        let input = [field(1, b"rows"), field(2, &field(1, &tensor))].concat();
        let place = field(13, &[field(1, b"location"), field(2, b"w.bin")].concat());
        let weights = [field(5, &field(9, b"bytes")), field(5, &[field(8, b"w"), place].concat())].concat();
        let graph = [weights, field(11, &input), field(12, &field(1, b"out"))].concat();
        [&[8, 10, 0x0D, 1, 2, 3, 4, 0x11, 1, 2, 3, 4, 5, 6, 7, 8][..], &field(7, &graph)].concat()
    }

    #[test]
    fn inputs_outputs_and_places_of_weights_are_found() {
        let found = OnnxFile::parse(&graph()).unwrap();
        let rows = Declared { name: "rows".into(), dtype: 10, dims: vec![Some(3), None] };
        let out = Declared { name: "out".into(), ..Declared::default() };
        assert_eq!(found, OnnxFile { inputs: vec![rows], outputs: vec![out], external: BTreeSet::from(["w.bin".into()]) });
    }

    #[test]
    fn weights_are_found_wherever_a_graph_can_name_a_file() {
        let place = |file: &[u8]| field(13, &[field(1, b"location"), field(2, file)].concat());
        let constant = |file: &[u8]| field(1, &field(5, &field(5, &place(file))));
        let within = field(1, &field(5, &field(6, &constant(b"inner.bin"))));
        let found = OnnxFile::parse(&field(7, &[constant(b"outer.bin"), within].concat())).unwrap();
        assert_eq!(found.external, BTreeSet::from(["inner.bin".into(), "outer.bin".into()]));
        let deep = (0..=MAX_DEPTH).fold(constant(b"w"), |graph, _| field(1, &field(5, &field(6, &graph))));
        let twice = field(5, &field(13, &[field(1, b"location"), field(2, b"a"), field(2, b"b")].concat()));
        for (model, wanted) in [
            (field(7, &deep), "graphs within graphs, more than 8 deep"),
            ([field(7, b""), field(7, b"")].concat(), "more than one of graphs"),
            (field(7, &twice), "more than one of places of weights"),
            (field(7, &field(15, b"")), "sparse weights"),
            ([&[25 << 3 & 0x7F | 2 | 0x80, 1, 0][..], &field(7, b"")].concat(), "functions of its own"),
        ] {
            assert_eq!(OnnxFile::parse(&model).unwrap_err(), wanted);
        }
    }

    #[test]
    fn a_number_takes_the_place_of_a_dimensions_name() {
        for number in [1, 127, 128, 12_288] {
            let changed = with_number(graph(), "any", number).unwrap();
            assert_eq!(changed.len(), graph().len());
            assert_eq!(OnnxFile::parse(&changed).unwrap().inputs[0].dims, [Some(3), Some(number)]);
        }
        assert_eq!(with_number(graph(), "cache", 1).unwrap_err(), "no dimension called cache");
        assert!(with_number(vec![0xFF; 12], "any", 1).is_err());
    }

    #[test]
    fn what_is_damaged_is_an_error_or_another_graph_and_never_more_than_its_bounds() {
        let whole = graph();
        for at in 0..whole.len() {
            // What is cut off ends within the graph, or before it.
            assert!(OnnxFile::parse(&whole[..at]).is_err(), "{at}");
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                let _ = OnnxFile::parse(&flipped);
            }
        }
        let many = |number: u8, body: &[u8], count: usize| {
            let fields = field(number, body).repeat(count);
            let len = [(fields.len() & 0x7F) as u8 | 0x80, (fields.len() >> 7 & 0x7F) as u8 | 0x80, (fields.len() >> 14) as u8];
            [&[7 << 3 | 2][..], &len, &fields].concat()
        };
        assert_eq!(OnnxFile::parse(&many(11, b"", MAX_VALUES)).unwrap().inputs.len(), MAX_VALUES);
        for (bytes, wanted) in [
            (many(11, b"", MAX_VALUES + 1), "more than 1024 inputs"),
            (many(12, b"", MAX_VALUES + 1), "more than 1024 outputs"),
            (many(11, &field(2, &field(1, &field(2, &field(1, b"").repeat(9)))), 1), "more than 8 dimensions of a tensor"),
            (many(11, &field(1, b"\xFF"), 1), "a name that isn't UTF-8"),
            (vec![0x3B], "a field that is cut off or of no known kind"),
            (vec![0xFF; 12], "a field that is cut off or of no known kind"),
            (vec![], "none in it"),
        ] {
            assert_eq!(OnnxFile::parse(&bytes).unwrap_err(), wanted);
        }
    }
}
