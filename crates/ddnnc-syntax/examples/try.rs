use ddnnc_diag::{SourceMap, render};
fn main() {
    for path in std::env::args().skip(1) {
        let text = std::fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut m = SourceMap::new();
        let id = m.add(path.clone(), text.clone());
        let t = std::time::Instant::now();
        let r = ddnnc_syntax::parse(&text, id);
        eprintln!("{path} {:?}", t.elapsed());
        match r {
            Ok(f) => println!("{} items", f.items.len()),
            Err(e) => println!("{}", render(&e, &m, false)),
        }
    }
}
