import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.MemorySize;
import org.apache.flink.configuration.PipelineOptions;
import org.apache.flink.configuration.RestartStrategyOptions;
import org.apache.flink.configuration.StateBackendOptions;
import org.apache.flink.configuration.TaskManagerOptions;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.core.execution.CheckpointingMode;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.DataStreamUtils;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerRecord;

/**
 * The balance job on Flink's DataStream API, in a cluster inside this process: source, keyed state and sink are one chain
 * in one task. The topics are keyed and partitioned alike and there is one subtask, so the stream counts as keyed as it
 * is and nothing is shuffled or copied. State on the heap; a checkpoint, and with it a commit, every 200 ms, at least once.
 */
public final class Balances {
    private static final int LOW_UNITS = 3;
    private static final ObjectMapper MAPPER = new ObjectMapper();

    public static void main(String[] arguments) throws Exception {
        Map<String, String> options = new HashMap<>();
        for (int i = 0; i < arguments.length; i += 2) {
            options.put(arguments[i].substring(2), arguments[i + 1]);
        }

        Configuration settings = new Configuration();
        settings.set(StateBackendOptions.STATE_BACKEND, "hashmap");
        settings.set(CheckpointingOptions.CHECKPOINT_STORAGE, "filesystem");
        settings.set(
            CheckpointingOptions.CHECKPOINTS_DIRECTORY, Path.of(options.get("folder"), "checkpoints").toUri().toString());
        settings.set(PipelineOptions.OBJECT_REUSE, true);
        settings.set(RestartStrategyOptions.RESTART_STRATEGY, "disable");
        settings.set(TaskManagerOptions.MANAGED_MEMORY_SIZE, MemorySize.ofMebiBytes(16));
        StreamExecutionEnvironment environment = StreamExecutionEnvironment.createLocalEnvironment(1, settings);
        environment.enableCheckpointing(200, CheckpointingMode.AT_LEAST_ONCE);

        KafkaSource<Told> source = KafkaSource.<Told>builder()
            .setBootstrapServers(options.get("bootstrap"))
            .setTopics(Arrays.asList(options.get("inputs").split(",")))
            .setGroupId(options.get("group"))
            .setStartingOffsets(OffsetsInitializer.earliest())
            .setProperty("isolation.level", "read_committed")
            .setDeserializer(new Decode())
            .build();
        KafkaSink<Changed> sink = KafkaSink.<Changed>builder()
            .setBootstrapServers(options.get("bootstrap"))
            .setDeliveryGuarantee(DeliveryGuarantee.AT_LEAST_ONCE)
            .setRecordSerializer(new Encode(options.get("output")))
            .setProperty("linger.ms", options.get("linger-ms"))
            .setProperty("batch.size", "262144")
            .setProperty("acks", "all")
            .build();
        DataStream<Told> told = environment.fromSource(source, WatermarkStrategy.noWatermarks(), "events");
        DataStreamUtils.reinterpretAsKeyedStream(told, event -> event.key, Types.STRING)
            .process(new Keep())
            .sinkTo(sink);
        environment.execute("balances");
    }

    /** An event, as it goes from one part of the chain to the next. */
    public static final class Told {
        public String key;
        public JsonNode event;
    }

    /** A record, likewise. */
    public static final class Changed {
        public byte[] key;
        public byte[] value;
    }

    private static final class Decode implements KafkaRecordDeserializationSchema<Told> {
        private transient ObjectReader reader;

        @Override
        public void deserialize(ConsumerRecord<byte[], byte[]> message, Collector<Told> out) throws IOException {
            if (reader == null) {
                reader = MAPPER.readerFor(JsonNode.class);
            }
            Told told = new Told();
            told.event = reader.readTree(message.value());
            told.key = told.event.get("sku").textValue() + "|" + told.event.get("location").textValue();
            out.collect(told);
        }

        @Override
        public TypeInformation<Told> getProducedType() {
            return Types.GENERIC(Told.class);
        }
    }

    private static final class Keep extends KeyedProcessFunction<String, Told, Changed> {
        private transient ValueState<long[]> balances;
        private transient ByteArrayOutputStream bytes;

        @Override
        public void open(OpenContext context) {
            balances = getRuntimeContext().getState(
                new ValueStateDescriptor<>("balances", PrimitiveArrayTypeInfo.LONG_PRIMITIVE_ARRAY_TYPE_INFO));
            bytes = new ByteArrayOutputStream(512);
        }

        @Override
        public void processElement(Told told, Context context, Collector<Changed> out) throws Exception {
            JsonNode event = told.event;
            long[] before = balances.value();
            // A new one each time: a checkpoint may still write the old one.
            long[] after = before == null ? new long[3] : before.clone();
            int units = event.get("units").intValue();
            after[0] += 1;
            switch (event.get("type").textValue()) {
                case "pos.sale" -> after[1] -= units;
                case "wms.receipt" -> after[1] += units;
                default -> after[2] += units;
            }
            balances.update(after);
            Changed changed = new Changed();
            changed.key = told.key.getBytes(StandardCharsets.UTF_8);
            changed.value = encoded(event, after);
            out.collect(changed);
        }

        private byte[] encoded(JsonNode event, long[] balance) {
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
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
            return bytes.toByteArray();
        }
    }

    private record Encode(String topic) implements KafkaRecordSerializationSchema<Changed> {
        @Override
        public ProducerRecord<byte[], byte[]> serialize(Changed changed, KafkaSinkContext context, Long timestamp) {
            return new ProducerRecord<>(topic, changed.key, changed.value);
        }
    }
}
