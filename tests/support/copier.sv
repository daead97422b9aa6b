// Stand-in for the accelerator in tests of the harness: its ports and registers, but it copies.
//
// A layer is two beats. First: opcode (byte 0: 1 copy, 2 end), stall (byte 1: cycles it holds
// rready low after each data beat), digest (bytes 4..7). Second, 32 bits each: source,
// destination, beats, beats of a burst. One burst is in flight at a time. Each copied beat is an
// event: psum is its low word, decision its bit 0. Counters of lane 0 hold, of the layer's last
// burst: cycles from read address to first beat, from first to last beat, from last written
// beat to response.

module hwgate_top #(
    parameter int LANES = 2,
    parameter bit [31:0] DIGEST = 32'h@DIGEST@,
    parameter int PIXELS = @PIXELS@,
    parameter int CHANNELS = @CHANNELS@
) (
    input clk, input rst, output irq,
    output m_axi__awid, output [31:0] m_axi__awaddr, output [7:0] m_axi__awlen,
    output [2:0] m_axi__awsize, output [1:0] m_axi__awburst, output m_axi__awvalid,
    input m_axi__awready,
    output [127:0] m_axi__wdata, output [15:0] m_axi__wstrb, output m_axi__wlast,
    output m_axi__wvalid, input m_axi__wready,
    input m_axi__bid, input [1:0] m_axi__bresp, input m_axi__bvalid, output m_axi__bready,
    output m_axi__arid, output [31:0] m_axi__araddr, output [7:0] m_axi__arlen,
    output [2:0] m_axi__arsize, output [1:0] m_axi__arburst, output m_axi__arvalid,
    input m_axi__arready,
    input m_axi__rid, input [127:0] m_axi__rdata, input [1:0] m_axi__rresp, input m_axi__rlast,
    input m_axi__rvalid, output m_axi__rready,
    input [11:0] s_axil__awaddr, input [2:0] s_axil__awprot, input s_axil__awvalid,
    output s_axil__awready,
    input [31:0] s_axil__wdata, input [3:0] s_axil__wstrb, input s_axil__wvalid,
    output s_axil__wready,
    output [1:0] s_axil__bresp, output s_axil__bvalid, input s_axil__bready,
    input [11:0] s_axil__araddr, input [2:0] s_axil__arprot, input s_axil__arvalid,
    output s_axil__arready,
    output [31:0] s_axil__rdata, output [1:0] s_axil__rresp, output s_axil__rvalid,
    input s_axil__rready,
    output reg monitor__layer_done,
    output [32*(7+8*LANES)-1:0] monitor__counters,
    output reg [83*LANES-1:0] monitor__events,
    output [160:0] monitor__chip
);
  localparam int COUNTERS = 7 + 8 * LANES;
  reg [31:0] counter[COUNTERS];
  for (genvar i = 0; i < COUNTERS; i++) begin : g_counter
    assign monitor__counters[32*i +: 32] = counter[i];
  end

  typedef enum {IDLE, FETCH, DECODE, ASK, READ, WRITE, ANSWER, FINISH} state_t;
  state_t state;
  reg [127:0] buffer[256];
  reg [31:0] pc, program_address, source, target, left, layers, since, index;
  reg [8:0] burst, at, size;
  reg [7:0] opcode, stall, pause;
  reg [3:0] error;
  reg done, enable, start;
  wire busy = state != IDLE;
  assign irq = done & enable;

  assign monitor__chip = 0;

  // Memory port.
  assign {m_axi__awid, m_axi__arid} = 0;
  assign {m_axi__awsize, m_axi__arsize} = {3'd4, 3'd4};
  assign {m_axi__awburst, m_axi__arburst} = {2'd1, 2'd1};
  reg asked;
  assign m_axi__arvalid = (state == FETCH || state == ASK) && !asked;
  assign m_axi__araddr = state == FETCH ? pc : source;
  assign m_axi__arlen = state == FETCH ? 8'd1 : 8'(size - 1);
  assign m_axi__rready = (state == FETCH || state == READ || state == ASK) && pause == 0;
  assign m_axi__awvalid = state == WRITE && !asked;
  assign m_axi__awaddr = target;
  assign m_axi__awlen = 8'(size - 1);
  assign m_axi__wvalid = state == WRITE && asked;
  assign m_axi__wdata = buffer[at[7:0]];
  assign m_axi__wstrb = 16'hffff;
  assign m_axi__wlast = at == size - 1;
  assign m_axi__bready = 1;
  wire r_fire = m_axi__rvalid && m_axi__rready;
  wire w_fire = m_axi__wvalid && m_axi__wready;

  always @(posedge clk) begin
    monitor__layer_done <= 0;
    monitor__events <= 0;
    since <= since + 1;
    if (pause != 0) pause <= pause - 1;
    if (busy) counter[0] <= counter[0] + 1;
    case (state)
      IDLE: if (start) begin
        state <= FETCH; asked <= 0; at <= 0; pc <= program_address; layers <= 0; index <= 0;
        done <= 0; error <= 0; stall <= 0;
        for (int i = 0; i < COUNTERS; i++) counter[i] <= 0;
      end
      FETCH: begin
        if (m_axi__arvalid && m_axi__arready) asked <= 1;
        if (r_fire) begin
          counter[1] <= counter[1] + 16;
          buffer[at[7:0]] <= m_axi__rdata;
          at <= at + 1;
          if (m_axi__rresp[1]) error <= 2;
          if (m_axi__rlast) state <= DECODE;
        end
      end
      DECODE: begin
        opcode <= buffer[0][7:0]; stall <= buffer[0][15:8];
        {burst, left} <= {buffer[1][104:96], buffer[1][95:64]};
        {target, source} <= buffer[1][63:0];
        size <= buffer[1][95:64] < 32'(buffer[1][104:96]) ? buffer[1][72:64] : buffer[1][104:96];
        pc <= pc + 32; at <= 0; asked <= 0; since <= 0; index <= 0;
        if (error == 0 && buffer[0][7:0] == 1 && buffer[0][63:32] != DIGEST) error <= 4;
        else if (error == 0 && buffer[0][7:0] != 1 && buffer[0][7:0] != 2) error <= 1;
        state <= error == 0 && buffer[0][7:0] == 1 && buffer[0][63:32] == DIGEST ? ASK : FINISH;
      end
      ASK, READ: begin
        if (m_axi__arvalid && m_axi__arready) begin asked <= 1; since <= 1; end
        if (r_fire) begin
          if (state == ASK) begin counter[7] <= since; since <= 1; end
          else counter[8] <= since;
          state <= READ;
          pause <= stall;
          counter[2] <= counter[2] + 16;
          buffer[at[7:0]] <= m_axi__rdata;
          at <= at + 1;
          if (m_axi__rresp[1]) error <= 2;
          if (m_axi__rlast) begin state <= error != 0 || m_axi__rresp[1] ? FINISH : WRITE;
                                  at <= 0; asked <= 0; end
        end
      end
      WRITE: begin
        if (m_axi__awvalid && m_axi__awready) asked <= 1;
        if (w_fire) begin
          counter[5] <= counter[5] + 16;
          monitor__events[83*index[0] +: 83] <= {1'b0, buffer[at[7:0]][0], buffer[at[7:0]][31:0],
              16'(index % PIXELS), 16'(index / (CHANNELS * PIXELS)),
              16'(index / PIXELS % CHANNELS), 1'b1};
          index <= index + 1;
          at <= at + 1;
          if (m_axi__wlast) begin state <= ANSWER; since <= 1; end
        end
      end
      ANSWER: if (m_axi__bvalid) begin
        counter[9] <= since;
        source <= source + 32'(size) * 16; target <= target + 32'(size) * 16;
        left <= left - 32'(size);
        size <= left - 32'(size) < 32'(burst) ? 9'(left - 32'(size)) : burst;
        at <= 0; asked <= 0;
        if (m_axi__bresp[1]) begin error <= 3; state <= FINISH; end
        else if (left != 32'(size)) state <= ASK;
        else begin monitor__layer_done <= 1; layers <= layers + 1; state <= FETCH; end
      end
      FINISH: begin done <= 1; state <= IDLE; end
    endcase
    if (rst) begin
      state <= IDLE; done <= 0; error <= 0; pause <= 0; layers <= 0; stall <= 0;
      for (int i = 0; i < COUNTERS; i++) counter[i] <= 0;
    end
  end

  // Control port: address and data of a write are taken together.
  reg b_valid, r_valid;
  reg [31:0] r_data;
  wire write = s_axil__awvalid && s_axil__wvalid && !b_valid;
  wire read = s_axil__arvalid && !r_valid;
  assign {s_axil__awready, s_axil__wready, s_axil__arready} = {write, write, read};
  assign {s_axil__bvalid, s_axil__bresp} = {b_valid, 2'b0};
  assign {s_axil__rvalid, s_axil__rresp, s_axil__rdata} = {r_valid, 2'b0, r_data};
  always @(posedge clk) begin
    start <= 0;
    if (s_axil__bready) b_valid <= 0;
    if (s_axil__rready) r_valid <= 0;
    if (write) begin
      b_valid <= 1;
      case (s_axil__awaddr[11:2])
        2: {enable, start} <= s_axil__wdata[1:0];
        4: program_address <= s_axil__wdata;
        default: ;
      endcase
    end
    if (read) begin
      r_valid <= 1;
      case (s_axil__araddr[11:2])
        0: r_data <= 32'h48574741;
        1: r_data <= DIGEST;
        2: r_data <= 32'({enable, 1'b0});
        3: r_data <= 32'({error, done, busy});
        4: r_data <= program_address;
        5: r_data <= layers;
        default: r_data <= counter[32'(s_axil__araddr[11:2]) - 6];
      endcase
    end
    if (rst) begin b_valid <= 0; r_valid <= 0; enable <= 0; program_address <= 0; end
  end
endmodule
