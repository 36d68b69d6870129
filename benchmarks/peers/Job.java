import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.ByteArrayOutputStream;
import java.io.IOException;

/** The simple balance job, as `job.py` has it, for the peers in Java. A balance is version, on hand, committed. */
final class Job {
    private static final int LOW_UNITS = 3;
    private static final ObjectMapper MAPPER = new ObjectMapper();

    private Job() {}

    /** An event of its bytes. */
    static JsonNode event(byte[] value) throws IOException {
        return MAPPER.readTree(value);
    }

    /** The key of its balance. */
    static String key(JsonNode event) {
        return event.get("sku").textValue() + "|" + event.get("location").textValue();
    }

    /** Let an event have its effect. */
    static void take(long[] balance, JsonNode event) {
        int units = event.get("units").intValue();
        switch (event.get("type").textValue()) {
            case "pos.sale" -> balance[1] -= units;
            case "wms.receipt" -> balance[1] += units;
            default -> balance[2] += units;
        }
        balance[0] += 1;
    }

    /** What is published after it; `bytes` is a buffer to work in. */
    static byte[] record(long[] balance, JsonNode event, ByteArrayOutputStream bytes) throws IOException {
        long available = Math.max(0, balance[1] - balance[2]);
        String status = available > LOW_UNITS ? "IN_STOCK" : available > 0 ? "LOW_STOCK" : "OUT_OF_STOCK";
        bytes.reset();
        try (JsonGenerator json = MAPPER.createGenerator(bytes)) {
            json.writeStartObject();
            json.writeNumberField("version", balance[0]);
            json.writeStringField("sku", event.get("sku").textValue());
            json.writeStringField("location", event.get("location").textValue());
            json.writeStringField("status", status);
            json.writeNumberField("available", available);
            json.writeNumberField("on_hand", balance[1]);
            json.writeNumberField("committed", balance[2]);
            json.writeObjectFieldStart("cause");
            for (String name : new String[] {"type", "id", "source", "occurred_at"}) {
                json.writeStringField(name, event.get(name).textValue());
            }
            json.writeEndObject();
            json.writeNumberField("changed_at_ms", System.currentTimeMillis());
            json.writeEndObject();
        }
        return bytes.toByteArray();
    }
}
