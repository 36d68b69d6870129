import com.fasterxml.jackson.databind.JsonNode;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
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
        @Override
        public void deserialize(ConsumerRecord<byte[], byte[]> message, Collector<Told> out) throws IOException {
            Told told = new Told();
            told.event = Job.event(message.value());
            told.key = Job.key(told.event);
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
            long[] before = balances.value();
            // A new one each time: a checkpoint may still write the old one.
            long[] after = before == null ? new long[3] : before.clone();
            Job.take(after, told.event);
            balances.update(after);
            Changed changed = new Changed();
            changed.key = told.key.getBytes(StandardCharsets.UTF_8);
            changed.value = Job.record(after, told.event, bytes);
            out.collect(changed);
        }
    }

    private record Encode(String topic) implements KafkaRecordSerializationSchema<Changed> {
        @Override
        public ProducerRecord<byte[], byte[]> serialize(Changed changed, KafkaSinkContext context, Long timestamp) {
            return new ProducerRecord<>(topic, changed.key, changed.value);
        }
    }
}
