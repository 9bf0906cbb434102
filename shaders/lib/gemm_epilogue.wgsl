    // Epilogue of a TM x TN register tile: c{i}_{j} at rows m_first + i, columns n{j}. A loop handles a few rows and then
    // moves the others up: unrolled over the tile, this would be most of what a driver compiles (a dozen times the K loop).
    //% set packed_ = false
    //% set GN = 4
    //% set block = [1, 32 // TN] | max
    //% set block = block if TM % block == 0 else 1
    //% if lora
    for (var r = 0u; r < p.rank; r++) {
        //% for j in range(TN)
        let u{{ j }} = up_at(n{{ j }} * p.rank + r);
        //% endfor
        //% for i in range(loads)
        let g{{ i }} = p.lora_scale * hidden_at(from{{ i }} * p.rank + r);
        //% endfor
        //% for i in range(TM)
        {
            let h = {{ "subgroupBroadcast(g" ~ (i // SG) ~ ", " ~ (i % SG) ~ "u)" if SG else "g" ~ i }};
            //% for j in range(TN)
            c{{ i }}_{{ j }} += h * u{{ j }};
            //% endfor
        }
        //% endfor
    }
    //% endif
    //% if bias
    //% for j in range(TN)
    let bias{{ j }} = bias_at(n{{ j }});
    //% endfor
    //% endif
    let m_end = min(m_first + {{ TM }}u, p.m);
    for (var top = m_first; top < m_end; top += {{ block }}u) {
        //% for i in range([block, TM] | min)
        if top + {{ i }}u < m_end {
            let m = top + {{ i }}u;
            //% include "lib/gemm_row.wgsl"
        }
        //% endfor
        //% for i in range(TM - block)
        //% for j in range(TN)
        c{{ i }}_{{ j }} = c{{ i + block }}_{{ j }};
        //% endfor
        //% endfor
    }
