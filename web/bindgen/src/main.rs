//! bindgen INPUT.wasm FOLDER: JavaScript glue (an ES module) and the wasm that goes with it, as `wasm-bindgen --target web`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(input), Some(folder)) = (arguments.next(), arguments.next()) else {
        return Err("usage: bindgen INPUT.wasm FOLDER".into());
    };
    let mut bindgen = wasm_bindgen_cli_support::Bindgen::new();
    bindgen.input_path(input).web(true)?.typescript(true).remove_name_section(true).remove_producers_section(true);
    Ok(bindgen.generate(folder)?)
}
