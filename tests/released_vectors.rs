//! `compress --policy released` against the authors' own selection, token for token: vectors made by tools/vectors/released.py.

mod common;

use std::collections::HashMap;

use bytemuck::Pod;
use common::path;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

fn read<T: Pod>(file: &SafeTensors<'_>, name: &str) -> Vec<T> {
    let tensor = file.tensor(name).unwrap_or_else(|_| panic!("no tensor {name}"));
    tensor.data().chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}

#[test]
fn kept_and_merged_tokens_are_those_of_the_authors_function() {
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/released.safetensors")).unwrap();
    let vectors = SafeTensors::deserialize(&bytes).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (input, start, out) = (folder.path().join("in"), folder.path().join("start"), folder.path().join("out"));
    let mut cases = 0;
    while vectors.tensor(&format!("case{cases}.shape")).is_ok() {
        let case = format!("case{cases}.");
        let shape: Vec<i32> = read(&vectors, &format!("{case}shape"));
        let [clusters] = read::<i32>(&vectors, &format!("{case}clusters"))[..] else { panic!("one number of clusters") };
        let views: Vec<(i32, i32)> = shape.chunks_exact(2).map(|view| (view[0], view[1])).collect();
        let copied = |what: &str| {
            let name = move |view: usize| format!("view{view}.{what}");
            (1..=views.len()).map(|view| (name(view), vectors.tensor(&format!("{case}{}", name(view))).unwrap())).collect::<Vec<_>>()
        };
        let tensors: Vec<(String, TensorView<'_>)> = copied("features").into_iter().chain(copied("importance")).collect();
        let sides: Vec<String> = views.iter().map(|(tiles, tile)| (tiles * tile * 14).to_string()).collect();
        let tile = (views[0].1 * 14).to_string();
        let metadata = [("views", sides.join(",")), ("tile", tile), ("patch", "14".into())];
        let metadata: HashMap<String, String> = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        safetensors::serialize_to_file(tensors, Some(metadata), &input).unwrap();
        safetensors::serialize_to_file(copied("init"), None, &start).unwrap();
        let budgets: Vec<String> = read::<i32>(&vectors, &format!("{case}budgets")).iter().map(i32::to_string).collect();
        let (budgets, clusters) = (budgets.join(","), clusters.to_string());
        let args = ["compress", path(&input), "--out", path(&out), "--init", path(&start), "--policy", "released", "--budget", &budgets];
        let run = common::run(&[&args[..], &["--clusters", &clusters, "--iters", "10"]].concat());
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let bytes = std::fs::read(&out).unwrap();
        let found = SafeTensors::deserialize(&bytes).unwrap();
        for view in 1..=views.len() {
            let at = format!("{case}view{view}.");
            let of = |what: &str| format!("view{view}.{what}");
            assert_eq!(read::<u8>(&found, &of("merged")), read::<u8>(&vectors, &format!("{at}merged")), "{at}");
            assert_eq!(read::<i64>(&found, &of("sources_offsets")), read::<i64>(&vectors, &format!("{at}offsets")), "{at}");
            assert_eq!(read::<i32>(&found, &of("sources")), read::<i32>(&vectors, &format!("{at}sources")), "{at}");
            let (rows, wanted) = (read::<f32>(&found, &of("tokens")), read::<f32>(&vectors, &format!("{at}tokens")));
            assert!(rows.len() == wanted.len() && rows.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-5), "{at}tokens");
            assert_eq!(found.tensor(&of("tokens")).unwrap().dtype(), Dtype::F32);
        }
        cases += 1;
    }
    assert_eq!(cases, 6);
}
